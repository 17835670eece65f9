//! The list of built kernels that `src/kernels.rs` includes.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::nvcc::Images;
use crate::planted::PLANTS;
use crate::sources::Sources;

/// Modules and what nvcc made of them.
type Built<'a> = (&'a Sources, Option<&'a Images>);

/// Writes `kernel_list.rs`: one call of the macro that `src/kernels.rs` defines.
pub(crate) fn write((sources, images): Built<'_>, (tests, test_images): Built<'_>, out: &Path) -> Result<(), String> {
    let mut text = String::from("kernel_list! {\n");
    let architectures = images.map_or(&[][..], |images| &images.architectures);
    let nvcc = images.map(|images| &images.version);
    let image = |images: Option<&Images>, index: usize| match images.and_then(|images| images.file(index)) {
        Some(file) => format!("include_bytes!({:?})", file.display().to_string()),
        None => "b\"\"".to_owned(),
    };
    let _ = writeln!(text, "    nvcc: {nvcc:?};\n    architectures: {architectures:?};");
    for (index, module) in sources.modules.iter().enumerate() {
        let image = image(images, index);
        let _ = writeln!(text, "    {0:?} gridpoint_module_{0} gridpoint_checked_module_{0} {image};", module.name);
    }
    for plant in &PLANTS {
        let _ = writeln!(text, "    planted {:?} {:?} gridpoint_planted_{};", plant.name, plant.module, plant.name);
    }
    for (index, module) in tests.modules.iter().enumerate() {
        let _ = writeln!(
            text,
            "    tested {0:?} gridpoint_module_{0} gridpoint_checked_module_{0} {1};",
            module.name,
            image(test_images, index)
        );
    }
    text += "}\n";
    let path = out.join("kernel_list.rs");
    fs::write(&path, text).map_err(|error| format!("cannot write `{}`: {error}", path.display()))
}
