//! The table of compiled kernels: one module for each file of `kernels/*.cu`, in ascending order of their names.
//!
//! Every module is there twice: compiled by the host compiler, for the simulated device, and as an image for GPUs where nvcc was
//! found when the program was built. [`images`] is what a real driver loads.

use gridpoint_runtime::{Image, Images};
use gridpoint_simulator::module::HostModule;

/// The kernels of one `.cu` file.
#[derive(Debug, Clone, Copy)]
pub struct KernelModule {
    /// The file's stem, as `norm`.
    pub name: &'static str,
    /// A fatbin for the driver, aligned to 16 bytes, holding all of [`ARCHITECTURES`]; empty if the program was built without nvcc.
    pub image: &'static [u8],
    /// The same kernels compiled for the host.
    pub host: &'static HostModule,
}

/// Whether the modules hold images for GPUs.
pub const HAVE_KERNELS: bool = cfg!(have_kernels);

/// All modules, in ascending order of their names.
pub fn modules() -> &'static [KernelModule] {
    table::MODULES
}

/// The compiler's version as the driver counts it, 1000 * major + 10 * minor: the oldest driver API that is sure to take the
/// images. `None` without nvcc.
pub fn toolkit() -> Option<i32> {
    let (major, rest) = NVCC?.split_once('.')?;
    let minor = rest.split('.').next()?;
    major.parse::<i32>().ok()?.checked_mul(1000)?.checked_add(minor.parse::<i32>().ok()?.checked_mul(10)?)
}

/// What a GPU's driver loads. The images are empty without nvcc; opening a device with them then says so.
pub fn images() -> Images {
    let image = |module: &KernelModule| Image { module: module.name.to_owned(), bytes: module.image.into() };
    Images {
        modules: modules().iter().map(image).collect(),
        toolkit: toolkit(),
        architectures: ARCHITECTURES.join(", "),
        warpgroups: ARCHITECTURES.iter().any(|name| name.ends_with("_90a")),
    }
}

/// The kernels that the simulated device is installed with.
pub fn host_modules() -> Vec<&'static HostModule> {
    modules().iter().map(|module| module.host).collect()
}

/// The kernels that tell the simulated device of their plain loads and stores, for its detectors and counters. They compute the same bits,
/// slower.
///
/// The modules are compiled into whoever calls this and into no other program.
#[inline]
pub fn checked_modules() -> Vec<&'static HostModule> {
    table::checked()
}

/// [`checked_modules`] with a bug put into one of them: the plant `name` of build/planted.rs, for tests of the detectors.
#[doc(hidden)]
#[inline]
pub fn planted_modules(name: &str) -> Option<Vec<&'static HostModule>> {
    let (_, module, planted) = table::planted().into_iter().find(|(plant, ..)| *plant == name)?;
    let swap = |checked: &'static HostModule| if checked.name() == module { planted } else { checked };
    Some(checked_modules().into_iter().map(swap).collect())
}

/// The kernels of tests/instructions: part of whoever calls this and of no other program.
#[doc(hidden)]
#[inline]
pub fn test_modules() -> Vec<KernelModule> {
    table::tested()
}

/// [`test_modules`] as [`checked_modules`].
#[doc(hidden)]
#[inline]
pub fn checked_test_modules() -> Vec<&'static HostModule> {
    table::tested_checked()
}

/// [`images`] with those of [`test_modules`].
#[doc(hidden)]
#[inline]
pub fn images_with_tests() -> Images {
    let image = |module: KernelModule| Image { module: module.name.to_owned(), bytes: module.image.into() };
    let mut images = images();
    images.modules.extend(test_modules().into_iter().map(image));
    images
}

/// [`simulated_images`] with those of [`test_modules`].
#[doc(hidden)]
#[inline]
pub fn simulated_images_with_tests() -> Images {
    let image = |module: KernelModule| Image {
        module: module.name.to_owned(),
        bytes: gridpoint_simulator::image(module.name).into(),
    };
    let mut images = simulated_images();
    images.modules.extend(test_modules().into_iter().map(image));
    images
}

/// What the simulated device loads in place of images: the modules' names.
pub fn simulated_images() -> Images {
    let image = |module: &KernelModule| Image {
        module: module.name.to_owned(),
        bytes: gridpoint_simulator::image(module.name).into(),
    };
    Images {
        modules: modules().iter().map(image).collect(),
        toolkit: None,
        architectures: "the simulated device".to_owned(),
        warpgroups: true,
    }
}

/// Bytes at an address that is a multiple of 16.
#[repr(C, align(16))]
struct Aligned<Bytes: ?Sized>(Bytes);

macro_rules! kernel_list {
    (
        nvcc: $nvcc:expr;
        architectures: $architectures:expr;
        $($name:literal $symbol:ident $checked:ident $image:expr;)*
        $(planted $plant:literal $module:literal $planted:ident;)*
        $(tested $tested:literal $tested_symbol:ident $tested_checked:ident $tested_image:expr;)*
    ) => {
        /// Version of the nvcc that compiled the images, as `13.0.88`.
        pub const NVCC: Option<&str> = $nvcc;

        /// What the images hold, as nvcc names it: `sm_90a` is machine code, `compute_90` is PTX that a newer GPU's driver compiles.
        pub const ARCHITECTURES: &[&str] = &$architectures;

        #[expect(unsafe_code, reason = "the compiled modules are C objects")]
        mod table {
            use super::{Aligned, HostModule, KernelModule};

            // SAFETY: build.rs links the archive that defines each of these once, as a constant of the C type that `HostModule` mirrors
            // (`GRIDPOINT_MODULE` in kernels/ptx.cuh).
            unsafe extern "C" {
                $(safe static $symbol: HostModule;)*
                $(safe static $checked: HostModule;)*
                $(safe static $planted: HostModule;)*
                $(safe static $tested_symbol: HostModule;)*
                $(safe static $tested_checked: HostModule;)*
            }

            #[inline]
            pub(super) fn tested() -> Vec<KernelModule> {
                vec![$(KernelModule {
                    name: $tested,
                    image: {
                        const IMAGE: &Aligned<[u8]> = &Aligned(*$tested_image);
                        &IMAGE.0
                    },
                    host: &$tested_symbol,
                }),*]
            }

            #[inline]
            pub(super) fn tested_checked() -> Vec<&'static HostModule> {
                vec![$(&$tested_checked),*]
            }

            #[inline]
            pub(super) fn planted() -> Vec<(&'static str, &'static str, &'static HostModule)> {
                vec![$(($plant, $module, &$planted)),*]
            }

            #[inline]
            pub(super) fn checked() -> Vec<&'static HostModule> {
                vec![$(&$checked),*]
            }

            pub(super) static MODULES: &[KernelModule] = &[$(KernelModule {
                name: $name,
                image: {
                    const IMAGE: &Aligned<[u8]> = &Aligned(*$image);
                    &IMAGE.0
                },
                host: &$symbol,
            }),*];
        }
    };
}

include!(concat!(env!("OUT_DIR"), "/kernel_list.rs"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_module_for_every_source() {
        let mut sources: Vec<String> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/kernels"))
            .expect("the kernels' folder is there")
            .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_suffix(".cu")?.to_owned()))
            .collect();
        sources.sort();
        assert_eq!(modules().iter().map(|module| module.name).collect::<Vec<_>>(), sources);
    }

    #[test]
    fn images_are_there_exactly_with_nvcc() {
        assert_eq!(NVCC.is_some(), HAVE_KERNELS);
        assert_eq!(ARCHITECTURES.is_empty(), !HAVE_KERNELS);
        assert_eq!(toolkit().is_some(), HAVE_KERNELS);
        for module in modules() {
            // The magic number of a fatbin, little-endian.
            assert_eq!(module.image.starts_with(&[0x50, 0xed, 0x55, 0xba]), HAVE_KERNELS, "{}", module.name);
            assert_eq!(module.image.is_empty(), !HAVE_KERNELS, "{}", module.name);
            assert_eq!(module.image.as_ptr().addr() % 16, 0, "{}", module.name);
        }
    }
}
