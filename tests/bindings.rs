//! The checked-in bindings of the kernels' parameter structs are what bindgen makes of the header, and leave no field out.
//!
//! A third guard is the build itself: its C++ compiler checks every size and offset that the bindings state (build/host.rs).

mod house;

use house::{code, read};

const CHECKED_IN: &str = "crates/runtime/src/parameters.rs";

#[test]
#[cfg_attr(not(bindings_regenerated), ignore = "libclang was not found when the program was built")]
fn checked_in_bindings_are_what_bindgen_makes() {
    #[cfg(bindings_regenerated)]
    {
        let regenerated = include_str!(concat!(env!("OUT_DIR"), "/parameters.rs"));
        let standing = read(CHECKED_IN);
        let advice = format!("`{CHECKED_IN}` is stale: run `GRIDPOINT_UPDATE_BINDINGS=1 cargo build`");
        for (index, (made, stands)) in regenerated.lines().zip(standing.lines()).enumerate() {
            assert_eq!(made, stands, "line {}: {advice}", index + 1);
        }
        assert!(regenerated == standing, "{advice}");
    }
    #[cfg(not(bindings_regenerated))]
    panic!("there is nothing to compare: libclang was not found when the program was built");
}

#[test]
fn every_field_of_the_headers_is_bound() {
    let bindings = read(CHECKED_IN);
    let mut fields = Vec::new();
    for header in ["kernels/step.h", "kernels/parameters.h"] {
        fields.extend(declared_fields(&read(header)));
    }
    assert!(fields.len() > 80, "{} fields were found in the headers", fields.len());
    let missing: Vec<&String> =
        fields.iter().filter(|field| !bindings.contains(&format!("\"Offset of field: {field}\""))).collect();
    assert!(missing.is_empty(), "`{CHECKED_IN}` lacks {missing:?}: run `GRIDPOINT_UPDATE_BINDINGS=1 cargo build`");
    assert_eq!(
        fields.len(),
        bindings.matches("\"Offset of field: ").count(),
        "the bindings hold fields that no header declares"
    );
}

/// A launch is shown by the names and places of its struct's fields: those that bindgen states.
#[test]
fn fields_are_shown_where_the_bindings_have_them() {
    let bindings = read(CHECKED_IN).split_whitespace().collect::<String>();
    let mut shown = 0;
    for (of, fields) in gridpoint_runtime::DESCRIBED {
        for field in *fields {
            let stated = format!("offset_of!({of},{})-{}usize]", field.name, field.offset);
            assert!(bindings.contains(&stated), "`{of}::{}` is shown from byte {}", field.name, field.offset);
            shown += 1;
        }
        let declared = bindings.matches(&format!("\"Offsetoffield:{of}::")).count();
        assert_eq!(fields.len(), declared, "fields of `{of}`");
    }
    assert!(shown > 80, "{shown} fields are shown");
    let kernels = code(&read("kernels/parameters.h"));
    let structs = kernels.matches("Parameters {").count();
    assert_eq!(gridpoint_runtime::DESCRIBED.len(), structs, "every struct that kernels take is shown");
}

#[test]
fn every_constant_of_the_headers_is_bound() {
    let bindings = read(CHECKED_IN);
    let headers = [read("kernels/step.h"), read("kernels/parameters.h")].concat();
    let names: Vec<&str> =
        headers.lines().filter_map(|line| line.strip_prefix("#define ")?.split_whitespace().next()).collect();
    assert!(names.contains(&"GRIDPOINT_PAGE_TOKENS"));
    for name in &names {
        assert!(bindings.contains(&format!("pub const {name}: u32 = ")), "`{CHECKED_IN}` lacks `{name}`");
    }
    assert_eq!(
        bindings.matches("pub const ").count(),
        names.len(),
        "the bindings hold constants that no header defines"
    );
}

/// `Struct::field` for every field of every `typedef struct`, one declaration a line.
fn declared_fields(header: &str) -> Vec<String> {
    let mut name = None;
    let mut fields = Vec::new();
    for line in code(header).lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("typedef struct ") {
            name = Some(rest.trim_end_matches('{').trim().to_owned());
        } else if line.starts_with('}') {
            name = None;
        } else if let Some(name) = name.as_ref().filter(|_| !line.is_empty()) {
            let declaration =
                line.strip_suffix(';').unwrap_or_else(|| panic!("`{line}` in `{name}` is no declaration"));
            let declarator = declaration.split('[').next().unwrap_or(declaration);
            let field = declarator.rsplit([' ', '*']).next().unwrap_or(declarator);
            assert!(!declaration.contains(','), "`{line}` in `{name}` declares several fields");
            fields.push(format!("{name}::{field}"));
        }
    }
    fields
}

#[test]
fn fields_are_read_from_a_header() {
    let header = "typedef struct A {\n  // one; two\n  const uint16_t* x;  // y\n  uint32_t reserved[3];\n} A;\ntypedef struct B {\n  float z;\n} B;";
    assert_eq!(declared_fields(header), ["A::x", "A::reserved", "B::z"]);
}
