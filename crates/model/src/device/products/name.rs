//! Kernels of products as text: `skinny`, `tiles_64x64`.

use std::fmt;
use std::str::FromStr;

use super::class::{UnknownWord, named};
use super::{GemmTile, HopperTile, ProductKernel, TileCluster};

impl fmt::Display for GemmTile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rows, columns) = self.shape();
        write!(formatter, "{rows}x{columns}")
    }
}

impl fmt::Display for TileCluster {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Single => "single",
            Self::Rows => "rows",
            Self::Columns => "columns",
        })
    }
}

impl HopperTile {
    /// Every tile in every cluster, the widest first.
    pub fn all() -> impl Iterator<Item = Self> + Clone {
        let clusters = |columns| TileCluster::ALL.map(|cluster| Self { columns, cluster });
        Self::COLUMNS.into_iter().flat_map(clusters)
    }
}

impl fmt::Display for HopperTile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}x{}_{}", Self::ROWS, self.columns, self.cluster)
    }
}

impl ProductKernel {
    /// Every kernel with every tile.
    pub fn all() -> impl Iterator<Item = Self> + Clone {
        std::iter::once(Self::Skinny).chain(GemmTile::ALL.map(Self::Tiles)).chain(HopperTile::all().map(Self::Hopper))
    }
}

impl fmt::Display for ProductKernel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Skinny => formatter.write_str("skinny"),
            Self::Tiles(tile) => write!(formatter, "tiles_{tile}"),
            Self::Hopper(tile) => write!(formatter, "hopper_{tile}"),
        }
    }
}

impl FromStr for ProductKernel {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        named(word, "kernel for products", Self::all())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_kernel_has_a_name_of_its_own() {
        let names: BTreeSet<String> = ProductKernel::all().map(|kernel| kernel.to_string()).collect();
        assert_eq!(names.len(), ProductKernel::all().count());
        for kernel in ProductKernel::all() {
            assert_eq!(kernel.to_string().parse(), Ok(kernel));
        }
        assert_eq!("tiles_64x64".parse(), Ok(ProductKernel::Tiles(GemmTile::Rows64Columns64)));
        let tile = HopperTile { columns: 192, cluster: TileCluster::Rows };
        assert_eq!("hopper_128x192_rows".parse(), Ok(ProductKernel::Hopper(tile)));
        assert_eq!(ProductKernel::all().count(), 3 + 12);
    }

    #[test]
    fn a_word_that_is_none_is_refused_with_those_that_are() {
        for word in ["", "Skinny", "tiles", "tiles_64x128", "skinny "] {
            let error = word.parse::<ProductKernel>().expect_err("no kernel").to_string();
            assert!(
                error.starts_with(&format!("`{word}` is no kernel for products: it must be one of skinny, ")),
                "{error}"
            );
        }
    }
}
