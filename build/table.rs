//! The list of built kernels that `src/kernels.rs` includes.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::nvcc::Images;
use crate::sources::Sources;

/// Writes `kernel_list.rs`: one call of the macro that `src/kernels.rs` defines.
pub(crate) fn write(sources: &Sources, images: Option<&Images>, out: &Path) -> Result<(), String> {
    let mut text = String::from("kernel_list! {\n");
    let architectures = images.map_or(&[][..], |images| &images.architectures);
    let nvcc = images.map(|images| &images.version);
    let _ = writeln!(text, "    nvcc: {nvcc:?};\n    architectures: {architectures:?};");
    for (index, module) in sources.modules.iter().enumerate() {
        let image = match images.and_then(|images| images.files.get(index)) {
            Some(file) => format!("include_bytes!({:?})", file.display().to_string()),
            None => "b\"\"".to_owned(),
        };
        let _ = writeln!(text, "    {:?} gridpoint_module_{} {image};", module.name, module.name);
    }
    text += "}\n";
    let path = out.join("kernel_list.rs");
    fs::write(&path, text).map_err(|error| format!("cannot write `{}`: {error}", path.display()))
}
