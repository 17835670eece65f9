//! Tensor maps and clusters of the simulated device.

use gridpoint_driver::*;

#[macro_use]
mod driver_support;
use driver_support::device;

const INVALID_VALUE: CUresult = CUresult::ERROR_INVALID_VALUE;
const NOT_SUPPORTED: CUresult = CUresult::ERROR_NOT_SUPPORTED;

/// Arguments of cuTensorMapEncodeTiled: a valid map of a matrix of bfloat16, unless a test changes something.
struct Arguments {
    kind: CUtensorMapDataType,
    rank: u32,
    address: usize,
    extents: [u64; 2],
    strides: [u64; 1],
    box_extents: [u32; 2],
    element_strides: [u32; 2],
    interleave: CUtensorMapInterleave,
    swizzle: CUtensorMapSwizzle,
    promotion: CUtensorMapL2promotion,
    fill: CUtensorMapFloatOOBfill,
}

const VALID: Arguments = Arguments {
    kind: CUtensorMapDataType::BFLOAT16,
    rank: 2,
    address: 0x1000,
    extents: [128, 64],
    strides: [256],
    box_extents: [64, 64],
    element_strides: [1, 1],
    interleave: CUtensorMapInterleave::NONE,
    swizzle: CUtensorMapSwizzle::SWIZZLE_128B,
    promotion: CUtensorMapL2promotion::L2_256B,
    fill: CUtensorMapFloatOOBfill::NONE,
};

fn encode(map: *mut CUtensorMap, arguments: &Arguments) -> CUresult {
    answer!(cuTensorMapEncodeTiled(
        map,
        arguments.kind,
        arguments.rank,
        std::ptr::without_provenance_mut(arguments.address),
        arguments.extents.as_ptr(),
        arguments.strides.as_ptr(),
        arguments.box_extents.as_ptr(),
        arguments.element_strides.as_ptr(),
        arguments.interleave,
        arguments.swizzle,
        arguments.promotion,
        arguments.fill
    ))
}

#[test]
fn tensor_maps_keep_to_the_rules_of_cuda() {
    let _device = device();
    let mut map = CUtensorMap { opaque: [0; 16] };
    assert_eq!(encode(&mut map, &VALID), CUresult::SUCCESS);
    assert_ne!(map.opaque, [0; 16]);
    assert_eq!(encode(std::ptr::null_mut(), &VALID), INVALID_VALUE);
    let misplaced = (&raw mut map).wrapping_byte_add(16);
    assert_eq!(encode(misplaced, &VALID), INVALID_VALUE);
    let broken = [
        Arguments { kind: CUtensorMapDataType(99), ..VALID },
        Arguments { rank: 0, ..VALID },
        Arguments { rank: 6, ..VALID },
        Arguments { address: 0x1008, ..VALID },
        Arguments { extents: [0, 64], ..VALID },
        Arguments { strides: [8], ..VALID },
        Arguments { strides: [1 << 40], ..VALID },
        Arguments { box_extents: [64, 257], ..VALID },
        Arguments { box_extents: [60, 64], ..VALID },
        Arguments { box_extents: [128, 64], ..VALID },
        Arguments { element_strides: [1, 0], ..VALID },
        Arguments { interleave: CUtensorMapInterleave(9), ..VALID },
        Arguments { swizzle: CUtensorMapSwizzle(9), ..VALID },
        Arguments { promotion: CUtensorMapL2promotion(9), ..VALID },
        Arguments { fill: CUtensorMapFloatOOBfill(9), ..VALID },
        Arguments { kind: CUtensorMapDataType::UINT16, fill: CUtensorMapFloatOOBfill::NAN_REQUEST_ZERO_FMA, ..VALID },
    ];
    for (index, arguments) in broken.iter().enumerate() {
        assert_eq!(encode(&mut map, arguments), INVALID_VALUE, "{index}");
    }
    let unknown = [
        Arguments { kind: CUtensorMapDataType::TFLOAT32, ..VALID },
        Arguments { element_strides: [1, 2], ..VALID },
        Arguments { interleave: CUtensorMapInterleave::INTERLEAVE_16B, ..VALID },
        Arguments { swizzle: CUtensorMapSwizzle::SWIZZLE_128B_ATOM_32B, ..VALID },
    ];
    for (index, arguments) in unknown.iter().enumerate() {
        assert_eq!(encode(&mut map, arguments), NOT_SUPPORTED, "{index}");
    }
}

#[test]
fn launches_take_clusters_that_divide_their_grid() {
    let device = device();
    let function = device.function(c"nothing");
    let launch = |grid: [u32; 3], cluster: [u32; 3]| {
        let mut value = CUlaunchAttributeValue { pad: [0; 64] };
        value.cluster = cluster;
        let mut attribute = CUlaunchAttribute { id: CUlaunchAttributeID::CLUSTER_DIMENSION, pad: [0; 4], value };
        let config = CUlaunchConfig {
            grid_dim_x: grid[0],
            grid_dim_y: grid[1],
            grid_dim_z: grid[2],
            block_dim_x: 32,
            block_dim_y: 1,
            block_dim_z: 1,
            shared_mem_bytes: 0,
            stream: CUstream::null(),
            attrs: &mut attribute,
            num_attrs: 1,
        };
        answer!(cuLaunchKernelEx(&config, function, std::ptr::null_mut(), std::ptr::null_mut()))
    };
    for (grid, cluster) in
        [([6, 1, 1], [2, 1, 1]), ([6, 4, 2], [3, 2, 1]), ([8, 1, 1], [8, 1, 1]), ([1, 1, 1], [1, 1, 1])]
    {
        assert_eq!(launch(grid, cluster), CUresult::SUCCESS, "{grid:?} in {cluster:?}");
    }
    assert_eq!(launch([6, 1, 1], [4, 1, 1]), INVALID_VALUE);
    assert_eq!(launch([6, 1, 1], [0, 1, 1]), INVALID_VALUE);
    assert_eq!(launch([16, 1, 1], [16, 1, 1]), CUresult::ERROR_INVALID_CLUSTER_SIZE);
    assert_eq!(answer!(cuCtxSynchronize()), CUresult::SUCCESS);
}
