//! The file form of a table of measured choices: JSON.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::table::{Measurement, TableError, VERSION};
use super::{MeasuredDevice, ProductClass, ProductKernel, ProductTable, RowClass};
use crate::error::excerpt;
use crate::weight_plan::ElementType;

/// The form of files that this program writes and reads. It changes with the meaning of what stands in them.
const FORMAT: u64 = 1;
/// Most entries: some hundred models' worth.
const MOST_ENTRIES: usize = 16_384;
/// Most multiprocessors that a device is believed to have.
const MOST_MULTIPROCESSORS: u32 = 65_536;
/// Microseconds that a measurement cannot exceed: a day.
const MOST_MICROSECONDS: f64 = 86_400e6;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(rename = "format")]
    _format: u64,
    gridpoint: String,
    device: WrittenDevice,
    entries: Vec<WrittenEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenDevice {
    name: String,
    compute_capability: String,
    multiprocessors: u32,
    driver: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenEntry {
    element: String,
    epilogue: String,
    n: u32,
    k: u32,
    rows: u32,
    measured_rows: u32,
    kernel: String,
    microseconds: BTreeMap<String, f64>,
}

/// What stands in front of the rest, read first: of another format, the rest may be anything.
#[derive(Deserialize)]
struct Head {
    format: u64,
}

/// `9.0` as 9 and 0.
fn pair(text: &str) -> Option<(i32, i32)> {
    let (major, minor) = text.split_once('.')?;
    let number = |digits: &str| digits.parse().ok().filter(|number: &i32| number.to_string() == digits && *number >= 0);
    Some((number(major)?, number(minor)?))
}

fn field(entry: &str, field: &'static str, value: impl std::fmt::Display, expected: impl Into<String>) -> TableError {
    TableError::Field { entry: entry.to_owned(), field, value: excerpt(&value.to_string()), expected: expected.into() }
}

fn word<T: FromStr<Err = super::class::UnknownWord>>(
    entry: &str,
    name: &'static str,
    text: &str,
) -> Result<T, TableError> {
    text.parse().map_err(|error: super::class::UnknownWord| field(entry, name, text, format!("one of {}", error.known)))
}

impl FromStr for ElementType {
    type Err = super::class::UnknownWord;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        super::class::named(text, "element type", [Self::BFloat16, Self::Float16].into_iter())
    }
}

impl WrittenDevice {
    fn read(self) -> Result<MeasuredDevice, TableError> {
        let Self { name, compute_capability, multiprocessors, driver } = self;
        let of_device = "the device";
        let Some(capability) = pair(&compute_capability) else {
            return Err(field(of_device, "compute_capability", compute_capability, "two numbers such as `9.0`"));
        };
        if multiprocessors == 0 || multiprocessors > MOST_MULTIPROCESSORS {
            let expected = format!("from 1 to {MOST_MULTIPROCESSORS}");
            return Err(field(of_device, "multiprocessors", multiprocessors, expected));
        }
        let version = pair(&driver).filter(|&(major, minor)| major < 100_000 && minor < 100);
        let Some((major, minor)) = version else {
            return Err(field(of_device, "driver", driver, "two numbers such as `13.0`"));
        };
        Ok(MeasuredDevice {
            name,
            compute_capability: capability,
            multiprocessors,
            driver_version: major * 1000 + minor * 10,
        })
    }
}

impl WrittenEntry {
    fn read(self, number: usize, device: &MeasuredDevice) -> Result<(ProductClass, Measurement), TableError> {
        let entry = &format!("entry {number}");
        for (name, value) in [("n", self.n), ("k", self.k)] {
            if value == 0 || i32::try_from(value).is_err() {
                return Err(field(entry, name, value, format!("from 1 to {}", i32::MAX)));
            }
        }
        let rows = RowClass::of(self.rows);
        if rows.rows() != self.rows {
            return Err(field(entry, "rows", self.rows, "a power of two"));
        }
        if RowClass::of(self.measured_rows) != rows || self.measured_rows == 0 {
            let expected = format!("above {} and at most {}", rows.rows() / 2, rows.rows());
            return Err(field(entry, "measured_rows", self.measured_rows, expected));
        }
        let (element, epilogue) = (word(entry, "element", &self.element)?, word(entry, "epilogue", &self.epilogue)?);
        let class = ProductClass { element, epilogue, n: self.n, k: self.k, rows };
        let kernel: ProductKernel = word(entry, "kernel", &self.kernel)?;
        kernel.permits(class, device)?;
        let mut microseconds = Vec::with_capacity(self.microseconds.len());
        for (name, time) in self.microseconds {
            let candidate: ProductKernel = word(entry, "microseconds", &name)?;
            candidate.permits(class, device)?;
            if !(time > 0.0 && time <= MOST_MICROSECONDS) {
                return Err(field(entry, "microseconds", format!("{candidate}: {time}"), "above 0 and at most a day"));
            }
            microseconds.push((candidate, time));
        }
        if !microseconds.iter().any(|&(candidate, _)| candidate == kernel) {
            return Err(field(entry, "kernel", kernel, "one of the candidates in its `microseconds`"));
        }
        Ok((class, Measurement { kernel, rows: self.measured_rows, microseconds }))
    }
}

impl ProductTable {
    /// Bytes of the largest file that is read.
    pub const MOST_BYTES: u64 = 16 << 20;

    /// Reads what [`Self::to_json`] wrote. Whether it fits a device is for [`Self::fits`] to say.
    ///
    /// # Errors
    /// One sentence: what is malformed, another format or version, or an entry that cannot be on the device that the file names.
    pub fn from_json(text: &[u8]) -> Result<Self, TableError> {
        let malformed = |error: serde_json::Error| TableError::Malformed { reason: excerpt(&error.to_string()) };
        let head: Head = serde_json::from_slice(text).map_err(malformed)?;
        if head.format != FORMAT {
            return Err(TableError::Format { found: head.format, expected: FORMAT });
        }
        let Written { gridpoint, device, entries, .. } = serde_json::from_slice(text).map_err(malformed)?;
        if gridpoint != VERSION {
            return Err(TableError::Version { found: excerpt(&gridpoint) });
        }
        if entries.len() > MOST_ENTRIES {
            let reason = format!("it has {} entries, more than the {MOST_ENTRIES} that are read", entries.len());
            return Err(TableError::Malformed { reason });
        }
        let mut table = Self::new(device.read()?);
        for (index, entry) in entries.into_iter().enumerate() {
            let (class, measurement) = entry.read(index + 1, &table.device)?;
            if table.entries.insert(class, measurement).is_some() {
                return Err(TableError::Twice { class });
            }
        }
        Ok(table)
    }

    /// The file: an entry a line.
    #[must_use]
    pub fn to_json(&self) -> String {
        let MeasuredDevice { name, compute_capability: (major, minor), multiprocessors, driver_version } = &self.device;
        let device = WrittenDevice {
            name: name.clone(),
            compute_capability: format!("{major}.{minor}"),
            multiprocessors: *multiprocessors,
            driver: format!("{}.{}", driver_version / 1000, driver_version % 1000 / 10),
        };
        let entries = self.entries.iter().map(|(class, measurement)| WrittenEntry {
            element: class.element.to_string(),
            epilogue: class.epilogue.to_string(),
            n: class.n,
            k: class.k,
            rows: class.rows.rows(),
            measured_rows: measurement.rows,
            kernel: measurement.kernel.to_string(),
            microseconds: measurement.microseconds.iter().map(|(kernel, time)| (kernel.to_string(), *time)).collect(),
        });
        let text = |value: serde_json::Result<String>| value.unwrap_or_default();
        let lines: Vec<String> = entries.map(|entry| text(serde_json::to_string(&entry))).collect();
        format!(
            "{{\"format\":{FORMAT},\"gridpoint\":{},\"device\":{},\"entries\":[\n{}\n]}}\n",
            text(serde_json::to_string(VERSION)),
            text(serde_json::to_string(&device)),
            lines.join(",\n")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::products::{Epilogue, GemmTile};

    const SMALL: ProductKernel = ProductKernel::Tiles(GemmTile::Rows64Columns64);
    const LARGE: ProductKernel = ProductKernel::Tiles(GemmTile::Rows128Columns128);

    fn device() -> MeasuredDevice {
        let name = "NVIDIA \"H100\" 80GB  HBM3".to_owned();
        MeasuredDevice { name, compute_capability: (9, 0), multiprocessors: 132, driver_version: 12_080 }
    }

    fn class(epilogue: Epilogue, rows: u32) -> ProductClass {
        ProductClass { element: ElementType::BFloat16, epilogue, n: 4096, k: 4096, rows: RowClass::of(rows) }
    }

    fn table() -> ProductTable {
        let mut table = ProductTable::new(device());
        let few = vec![(SMALL, 7.25), (ProductKernel::Skinny, 3.5)];
        let measurement = Measurement { kernel: ProductKernel::Skinny, rows: 16, microseconds: few };
        table.insert(class(Epilogue::Residual, 16), measurement).expect("it is permitted");
        let many = vec![(LARGE, 20.0), (SMALL, 31.5)];
        let measurement = Measurement { kernel: LARGE, rows: 396, microseconds: many };
        table.insert(class(Epilogue::SwiGlu, 396), measurement).expect("it is permitted");
        table
    }

    fn refused(from: &str, to: &str) -> String {
        let text = table().to_json();
        let spoilt = text.replacen(from, to, 1);
        assert_ne!(spoilt, text, "`{from}` stands in {text}");
        ProductTable::from_json(spoilt.as_bytes()).expect_err("it is spoilt").to_string()
    }

    #[test]
    fn what_is_written_reads() {
        let text = table().to_json();
        let read = ProductTable::from_json(text.as_bytes()).expect("it reads");
        assert_eq!(read.to_json(), text);
        assert_eq!(read.device(), &device());
        let entry = read.get(&class(Epilogue::SwiGlu, 500)).expect("the class of 512 rows");
        assert_eq!((entry.kernel, entry.rows), (LARGE, 396));
        assert_eq!(read.get(&class(Epilogue::SwiGlu, 513)), None);
        let empty = ProductTable::new(device());
        assert_eq!(ProductTable::from_json(empty.to_json().as_bytes()), Ok(empty));
    }

    #[test]
    fn what_is_spoilt_is_refused_in_a_sentence() {
        for (from, to, words) in [
            ("{", "[", "the table of products is malformed: "),
            ("\"format\":1", "\"format\":2", "of format `2`: this program reads format 1, so tune again"),
            ("\"format\":1,", "", "missing field `format`"),
            ("\"driver\"", "\"drive\"", "unknown field `drive`"),
            ("12.8", "12", "`driver` of the device is `12`, it must be two numbers such as `13.0`"),
            ("\"9.0\"", "\"9.-1\"", "`compute_capability` of the device is `9.-1`"),
            (":132", ":0", "`multiprocessors` of the device is `0`, it must be from 1 to"),
            ("bfloat16", "int8", "`element` of entry 1 is `int8`, it must be one of bfloat16, float16"),
            ("residual", "bias", "`epilogue` of entry 1 is `bias`"),
            ("4096", "0", "`n` of entry 1 is `0`"),
            ("\"rows\":16", "\"rows\":17", "`rows` of entry 1 is `17`, it must be a power of two"),
            ("rows\":396", "rows\":256", "`measured_rows` of entry 2 is `256`, it must be above 256 and at most 512"),
            (
                "\"kernel\":\"skinny\"",
                "\"kernel\":\"skin\"",
                "`kernel` of entry 1 is `skin`, it must be one of skinny, ",
            ),
            ("\"kernel\":\"skinny\"", "\"kernel\":\"tiles_128x128\"", "`kernel` of entry 1 is `tiles_128x128`"),
            ("3.5", "-3.5", "`microseconds` of entry 1 is `skinny: -3.5`"),
            ("3.5", "1e999", "malformed"),
        ] {
            let error = refused(from, to);
            assert!(error.contains(words) && error.lines().count() == 1, "{from} as {to}: {error}");
        }
        let version = format!("\"gridpoint\":\"{VERSION}\"");
        let error = refused(&version, "\"gridpoint\":\"0.0.1\"");
        assert!(error.contains("measured with gridpoint `0.0.1` and this is"), "{error}");
    }

    #[test]
    fn entries_that_cannot_be_are_named() {
        let error = refused("\"rows\":16,\"measured_rows\":16", "\"rows\":128,\"measured_rows\":128");
        let words = "`skinny` takes at most 64 rows and bfloat16 residual [4096, 4096] of 128 rows has more";
        assert!(error.ends_with(words), "{error}");
        let twice = table().to_json().replace("swiglu", "residual").replace("512", "16").replace("396", "16");
        let error = ProductTable::from_json(twice.as_bytes()).expect_err("two entries").to_string();
        assert!(error.contains("two entries for bfloat16 residual [4096, 4096] of 16 rows"), "{error}");
    }

    #[test]
    fn a_table_is_for_its_device() {
        let table = table();
        assert_eq!(table.fits(&MeasuredDevice { driver_version: 13_000, ..device() }), Ok(()));
        let other = MeasuredDevice { multiprocessors: 114, ..device() };
        let error = table.fits(&other).expect_err("another device").to_string();
        assert!(error.contains("its number of multiprocessors is `132` and that of this one `114`"), "{error}");
        assert!(ProductTable::new(other).merge(table.clone()).is_err());
        let mut merged = ProductTable::new(device());
        merged.merge(table.clone()).expect("the same device");
        assert_eq!(merged, table);
        assert_eq!(ProductTable::file_name(&device()), format!("products-nvidia-h100-80gb-hbm3-{VERSION}.json"));
    }
}
