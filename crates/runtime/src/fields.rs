//! Parameter structs by the names of their fields, so that a launch can be shown to people.
//!
//! The names, places and types are those of the bindings, and the compiler holds them together: a field that is not listed here, or that the
//! header no longer has, does not compile.

use std::mem::offset_of;

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::parameters::{
    AttentionParameters, AttentionTensorParameters, BandwidthParameters, EmbeddingParameters, FillParameters,
    GemmParameters, NormParameters, RowScaleParameters, SampleParameters, ScheduleParameters, TensorGemmParameters,
};
use crate::{Launch, TensorMap};

/// A field of a parameter struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name in the kernels' header.
    pub name: &'static str,
    /// Bytes from the struct's start.
    pub offset: usize,
    /// What lies there.
    pub kind: FieldKind,
}

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// A device address of 8 bytes.
    Address,
    /// A number of 4 bytes without sign.
    Unsigned32,
    /// A number of 8 bytes without sign.
    Unsigned64,
    /// A number of 4 bytes with a fraction.
    Float32,
    /// A tensor map, 128 opaque bytes.
    TensorMap,
    /// So many elements one after another, each of so many bytes.
    Array {
        /// What an element holds.
        element: &'static FieldKind,
        /// How many there are.
        count: usize,
        /// Bytes from one to the next.
        stride: usize,
    },
    /// A struct.
    Struct(&'static [Field]),
}

/// The value of a field. It serialises as people read it: addresses and tensor maps in hexadecimal digits, structs by the names of their
/// fields, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A device address.
    Address(u64),
    /// A whole number.
    Unsigned(u64),
    /// A number with a fraction.
    Float(f32),
    /// Bytes that only the device understands.
    Opaque(Vec<u8>),
    /// The elements of an array.
    List(Vec<Value>),
    /// The fields of a struct.
    Struct(Vec<(&'static str, Value)>),
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Address(address) => serializer.collect_str(&format_args!("{address:#x}")),
            Self::Unsigned(number) => serializer.serialize_u64(*number),
            Self::Float(number) => serializer.serialize_f32(*number),
            Self::Opaque(bytes) => serializer.collect_str(&Digits(bytes)),
            Self::List(elements) => serializer.collect_seq(elements),
            Self::Struct(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                fields.iter().try_for_each(|(name, value)| map.serialize_entry(name, value))?;
                map.end()
            }
        }
    }
}

/// Bytes as hexadecimal digits, the first byte first.
struct Digits<'a>(&'a [u8]);

impl std::fmt::Display for Digits<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl FieldKind {
    /// The value that lies at the start of `bytes`; what goes beyond them reads as zeros.
    fn read(self, bytes: &[u8]) -> Value {
        match self {
            Self::Address => Value::Address(u64::from_ne_bytes(first(bytes))),
            Self::Unsigned32 => Value::Unsigned(u32::from_ne_bytes(first(bytes)).into()),
            Self::Unsigned64 => Value::Unsigned(u64::from_ne_bytes(first(bytes))),
            Self::Float32 => Value::Float(f32::from_ne_bytes(first(bytes))),
            Self::TensorMap => Value::Opaque(first::<{ size_of::<TensorMap>() }>(bytes).to_vec()),
            Self::Array { element, count, stride } => {
                Value::List((0..count).map(|index| element.read(from(bytes, index * stride))).collect())
            }
            Self::Struct(fields) => Value::Struct(read(fields, bytes)),
        }
    }
}

/// The values of fields, but for those that only fill gaps.
fn read(fields: &[Field], bytes: &[u8]) -> Vec<(&'static str, Value)> {
    let named = fields.iter().filter(|field| field.name != "reserved");
    named.map(|field| (field.name, field.kind.read(from(bytes, field.offset)))).collect()
}

fn from(bytes: &[u8], offset: usize) -> &[u8] {
    bytes.get(offset..).unwrap_or_default()
}

fn first<const COUNT: usize>(bytes: &[u8]) -> [u8; COUNT] {
    bytes.first_chunk().copied().unwrap_or([0; COUNT])
}

impl Launch {
    /// The parameters by name, in the struct's order; one of raw bytes, named `bytes`, where the struct has no description.
    #[must_use]
    pub fn values(&self) -> Vec<(&'static str, Value)> {
        let bytes: &[u8] = bytemuck::cast_slice(&self.parameters);
        match self.fields {
            [] => vec![("bytes", Value::Opaque(bytes.to_vec()))],
            fields => read(fields, bytes),
        }
    }
}

/// A type that a field can have.
trait Described {
    const KIND: FieldKind;
}

impl<T> Described for *const T {
    const KIND: FieldKind = FieldKind::Address;
}

impl<T> Described for *mut T {
    const KIND: FieldKind = FieldKind::Address;
}

impl Described for u32 {
    const KIND: FieldKind = FieldKind::Unsigned32;
}

impl Described for u64 {
    const KIND: FieldKind = FieldKind::Unsigned64;
}

impl Described for f32 {
    const KIND: FieldKind = FieldKind::Float32;
}

impl Described for TensorMap {
    const KIND: FieldKind = FieldKind::TensorMap;
}

impl<T: Described, const COUNT: usize> Described for [T; COUNT] {
    const KIND: FieldKind = FieldKind::Array { element: &T::KIND, count: COUNT, stride: size_of::<T>() };
}

/// The kind of the field that a function leads to.
const fn kind_of<S, F: Described>(_: fn(&S) -> &F) -> FieldKind {
    F::KIND
}

/// A parameter struct whose fields are known.
pub(crate) trait Fields {
    const FIELDS: &'static [Field];
}

macro_rules! fields {
    ($($of:ident { $($name:ident),* $(,)? })*) => {
        $(
            impl Fields for $of {
                const FIELDS: &'static [Field] = &[$(Field {
                    name: stringify!($name),
                    offset: offset_of!($of, $name),
                    kind: kind_of::<$of, _>(|of| &of.$name),
                }),*];
            }

            impl Described for $of {
                const KIND: FieldKind = FieldKind::Struct(<$of as Fields>::FIELDS);
            }

            // Without `..`, the pattern names every field.
            const _: fn($of) = |$of { $($name: _),* }| ();
        )*

        /// Every described struct by its name, with its fields.
        #[doc(hidden)]
        pub const DESCRIBED: &[(&str, &[Field])] = &[$((stringify!($of), <$of as Fields>::FIELDS)),*];
    };
}

fields! {
    EmbeddingParameters { step, table, output, hidden, vocabulary }
    NormParameters { step, input, weight, output, epsilon, width, rows, reserved }
    GemmParameters {
        step, activations, weights, bias, residual, output, row_scales, key_cache, value_cache, rotary, partials, counters, n, k, segment,
        rows, scaled, epsilon, inverse_width, query_heads, kv_heads, head_dim,
    }
    TensorGemmParameters { maps, gemm, row_capacity, cluster, reserved }
    RowScaleParameters { step, input, row_scales, epsilon, inverse_width, width, segment }
    ScheduleParameters {
        step, list, counters, capacity, counter_capacity, partial_capacity, kv_heads, group, tile_rows,
    }
    AttentionParameters {
        step, list, queries, key_cache, value_cache, output, partial_output, partial_state, counters, scale, query_heads, kv_heads,
        query_pitch,
    }
    AttentionTensorParameters { maps, attention, reserved }
    SampleParameters { step, logits, vocabulary, reserved }
    FillParameters { target, count, seed, half_width, offset, tensor, reserved }
    BandwidthParameters { source, target, sums, read_vectors, write_vectors }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of a struct that has no gaps.
    fn values<P: Fields>(parameters: &P) -> Vec<(&'static str, Value)> {
        // SAFETY: every struct here is without padding (contract of `Parameters`), and lives as long as the slice.
        let bytes = unsafe { std::slice::from_raw_parts(std::ptr::from_ref(parameters).cast(), size_of::<P>()) };
        read(P::FIELDS, bytes)
    }

    const fn address<T>(number: usize) -> *mut T {
        std::ptr::without_provenance_mut(number)
    }

    #[test]
    fn a_struct_reads_back_by_name() {
        let norm = NormParameters {
            step: address(0x1000),
            input: address(0x2000),
            weight: address(0),
            output: address(0x7f00_0000_3000),
            epsilon: 1e-5,
            width: 4096,
            rows: 1,
            reserved: 9,
        };
        let expected = r#"[["step","0x1000"],["input","0x2000"],["weight","0x0"],["output","0x7f0000003000"],["epsilon",0.00001],["width",4096],["rows",1]]"#;
        assert_eq!(serde_json::to_string(&values(&norm)).ok().as_deref(), Some(expected));
    }

    #[test]
    fn structs_inside_structs_and_arrays_are_read_where_they_lie() {
        let places: Vec<(&str, usize)> =
            TensorGemmParameters::FIELDS.iter().map(|field| (field.name, field.offset)).collect();
        assert_eq!(places, [("maps", 0), ("gemm", 512), ("row_capacity", 648), ("cluster", 652), ("reserved", 656)]);
        let FieldKind::Array { element: FieldKind::TensorMap, count: 4, stride: 128 } =
            TensorGemmParameters::FIELDS[0].kind
        else {
            panic!("{:?}", TensorGemmParameters::FIELDS[0]);
        };
        let mut bytes = [0_u8; size_of::<TensorGemmParameters>()];
        bytes[128] = 0xAB;
        bytes[512 + offset_of!(GemmParameters, n)] = 7;
        bytes[648] = 3;
        let read = Value::Struct(read(TensorGemmParameters::FIELDS, &bytes));
        let json = serde_json::to_value(read).expect("a value");
        assert_eq!((&json["gemm"]["n"], &json["row_capacity"], &json["cluster"]), (&7.into(), &3.into(), &0.into()));
        assert_eq!(json["maps"][1].as_str().map(|map| (map.len(), &map[..4])), Some((256, "ab00")));
        assert!(json.get("reserved").is_none());
    }
}
