//! The one list of driver functions: name and arguments as in the driver's binary interface; each answers a [`crate::CUresult`].
//!
//! Everything that exists once per function (the table's fields, the loader, the tables that answer an error, the linkable
//! symbols) is made from this list. It holds what cust 0.3.2 references and what gridpoint binds itself.

/// Calls the macro `$with` with the list: `name(argument: type, ...);` for every function. The types are those of this crate and of
/// [`std::ffi`], which the place of the call must have in scope.
#[macro_export]
macro_rules! with_functions {
    ($with:ident) => {
        $with! {
            // Driver.
            cuDriverGetVersion(driver_version: *mut c_int);
            cuGetErrorName(error: CUresult, text: *mut *const c_char);
            cuGetErrorString(error: CUresult, text: *mut *const c_char);
            cuGetProcAddress(symbol: *const c_char, address: *mut *mut c_void, cuda_version: c_int, flags: u64);
            cuGetProcAddress_v2(
                symbol: *const c_char,
                address: *mut *mut c_void,
                cuda_version: c_int,
                flags: u64,
                symbol_status: *mut CUdriverProcAddressQueryResult
            );
            cuInit(flags: c_uint);
            cuProfilerStart();
            cuProfilerStop();
            // Devices.
            cuDeviceGet(device: *mut CUdevice, ordinal: c_int);
            cuDeviceGetAttribute(value: *mut c_int, attrib: CUdevice_attribute, device: CUdevice);
            cuDeviceGetCount(count: *mut c_int);
            cuDeviceGetGraphMemAttribute(device: CUdevice, attr: CUgraphMem_attribute, value: *mut c_void);
            cuDeviceGetName(name: *mut c_char, len: c_int, device: CUdevice);
            cuDeviceGetUuid(uuid: *mut CUuuid, device: CUdevice);
            cuDeviceGraphMemTrim(device: CUdevice);
            cuDevicePrimaryCtxGetState(device: CUdevice, flags: *mut c_uint, active: *mut c_int);
            cuDevicePrimaryCtxRelease_v2(device: CUdevice);
            cuDevicePrimaryCtxReset_v2(device: CUdevice);
            cuDevicePrimaryCtxRetain(context: *mut CUcontext, device: CUdevice);
            cuDevicePrimaryCtxSetFlags_v2(device: CUdevice, flags: c_uint);
            cuDeviceTotalMem_v2(bytes: *mut usize, device: CUdevice);
            // Contexts.
            cuCtxCreate_v2(context: *mut CUcontext, flags: c_uint, device: CUdevice);
            cuCtxDestroy_v2(context: CUcontext);
            cuCtxGetApiVersion(context: CUcontext, version: *mut c_uint);
            cuCtxGetCacheConfig(config: *mut CUfunc_cache);
            cuCtxGetCurrent(context: *mut CUcontext);
            cuCtxGetDevice(device: *mut CUdevice);
            cuCtxGetFlags(flags: *mut c_uint);
            cuCtxGetLimit(value: *mut usize, limit: CUlimit);
            cuCtxGetSharedMemConfig(config: *mut CUsharedconfig);
            cuCtxGetStreamPriorityRange(least_priority: *mut c_int, greatest_priority: *mut c_int);
            cuCtxPopCurrent_v2(context: *mut CUcontext);
            cuCtxPushCurrent_v2(context: CUcontext);
            cuCtxSetCacheConfig(config: CUfunc_cache);
            cuCtxSetCurrent(context: CUcontext);
            cuCtxSetLimit(limit: CUlimit, value: usize);
            cuCtxSetSharedMemConfig(config: CUsharedconfig);
            cuCtxSynchronize();
            // Memory.
            cuMemAdvise(pointer: CUdeviceptr, count: usize, advice: CUmem_advise, device: CUdevice);
            cuMemAllocAsync(pointer: *mut CUdeviceptr, bytes: usize, stream: CUstream);
            cuMemAllocHost_v2(pointer: *mut *mut c_void, bytes: usize);
            cuMemAllocManaged(pointer: *mut CUdeviceptr, bytes: usize, flags: c_uint);
            cuMemAlloc_v2(pointer: *mut CUdeviceptr, bytes: usize);
            cuMemFreeAsync(pointer: CUdeviceptr, stream: CUstream);
            cuMemFreeHost(pointer: *mut c_void);
            cuMemFree_v2(pointer: CUdeviceptr);
            cuMemGetInfo_v2(free: *mut usize, total: *mut usize);
            cuMemHostAlloc(pointer: *mut *mut c_void, bytes: usize, flags: c_uint);
            cuMemHostGetDevicePointer_v2(device_pointer: *mut CUdeviceptr, pointer: *mut c_void, flags: c_uint);
            cuMemPrefetchAsync(pointer: CUdeviceptr, count: usize, dst_device: CUdevice, stream: CUstream);
            cuMemcpy2D_v2(copy: *const c_void);
            cuMemcpyAtoH_v2(dst_host: *mut c_void, src_array: CUarray, src_offset: usize, bytes: usize);
            cuMemcpyDtoDAsync_v2(dst_device: CUdeviceptr, src_device: CUdeviceptr, bytes: usize, stream: CUstream);
            cuMemcpyDtoD_v2(dst_device: CUdeviceptr, src_device: CUdeviceptr, bytes: usize);
            cuMemcpyDtoHAsync_v2(dst_host: *mut c_void, src_device: CUdeviceptr, bytes: usize, stream: CUstream);
            cuMemcpyDtoH_v2(dst_host: *mut c_void, src_device: CUdeviceptr, bytes: usize);
            cuMemcpyHtoA_v2(dst_array: CUarray, dst_offset: usize, src_host: *const c_void, bytes: usize);
            cuMemcpyHtoDAsync_v2(dst_device: CUdeviceptr, src_host: *const c_void, bytes: usize, stream: CUstream);
            cuMemcpyHtoD_v2(dst_device: CUdeviceptr, src_host: *const c_void, bytes: usize);
            cuMemsetD16Async(dst_device: CUdeviceptr, value: c_ushort, count: usize, stream: CUstream);
            cuMemsetD16_v2(dst_device: CUdeviceptr, value: c_ushort, count: usize);
            cuMemsetD32Async(dst_device: CUdeviceptr, value: c_uint, count: usize, stream: CUstream);
            cuMemsetD32_v2(dst_device: CUdeviceptr, value: c_uint, count: usize);
            cuMemsetD8Async(dst_device: CUdeviceptr, value: c_uchar, count: usize, stream: CUstream);
            cuMemsetD8_v2(dst_device: CUdeviceptr, value: c_uchar, count: usize);
            cuPointerGetAttribute(data: *mut c_void, attribute: CUpointer_attribute, ptr: CUdeviceptr);
            // Virtual memory.
            cuMemAddressFree(pointer: CUdeviceptr, size: usize);
            cuMemAddressReserve(
                pointer: *mut CUdeviceptr,
                size: usize,
                alignment: usize,
                address: CUdeviceptr,
                flags: u64
            );
            cuMemCreate(
                handle: *mut CUmemGenericAllocationHandle,
                size: usize,
                prop: *const CUmemAllocationProp,
                flags: u64
            );
            cuMemGetAllocationGranularity(
                granularity: *mut usize,
                prop: *const CUmemAllocationProp,
                option: CUmemAllocationGranularity_flags
            );
            cuMemMap(
                pointer: CUdeviceptr,
                size: usize,
                offset: usize,
                handle: CUmemGenericAllocationHandle,
                flags: u64
            );
            cuMemRelease(handle: CUmemGenericAllocationHandle);
            cuMemSetAccess(pointer: CUdeviceptr, size: usize, desc: *const CUmemAccessDesc, count: usize);
            cuMemUnmap(pointer: CUdeviceptr, size: usize);
            // Tensor maps.
            cuTensorMapEncodeTiled(
                tensor_map: *mut CUtensorMap,
                tensor_data_type: CUtensorMapDataType,
                tensor_rank: u32,
                global_address: *mut c_void,
                global_dim: *const u64,
                global_strides: *const u64,
                box_dim: *const u32,
                element_strides: *const u32,
                interleave: CUtensorMapInterleave,
                swizzle: CUtensorMapSwizzle,
                l2_promotion: CUtensorMapL2promotion,
                oob_fill: CUtensorMapFloatOOBfill
            );
            // Modules.
            cuModuleGetFunction(function: *mut CUfunction, module: CUmodule, name: *const c_char);
            cuModuleGetGlobal_v2(pointer: *mut CUdeviceptr, bytes: *mut usize, module: CUmodule, name: *const c_char);
            cuModuleLoad(module: *mut CUmodule, path: *const c_char);
            cuModuleLoadData(module: *mut CUmodule, image: *const c_void);
            cuModuleLoadDataEx(
                module: *mut CUmodule,
                image: *const c_void,
                num_options: c_uint,
                options: *mut CUjit_option,
                option_values: *mut *mut c_void
            );
            cuModuleLoadFatBinary(module: *mut CUmodule, fat_cubin: *const c_void);
            cuModuleUnload(module: CUmodule);
            // Linker.
            cuLinkAddData_v2(
                state: CUlinkState,
                kind: CUjitInputType,
                data: *mut c_void,
                size: usize,
                name: *const c_char,
                num_options: c_uint,
                options: *mut CUjit_option,
                option_values: *mut *mut c_void
            );
            cuLinkAddFile_v2(
                state: CUlinkState,
                kind: CUjitInputType,
                path: *const c_char,
                num_options: c_uint,
                options: *mut CUjit_option,
                option_values: *mut *mut c_void
            );
            cuLinkComplete(state: CUlinkState, cubin_out: *mut *mut c_void, size_out: *mut usize);
            cuLinkCreate_v2(
                num_options: c_uint,
                options: *mut CUjit_option,
                option_values: *mut *mut c_void,
                state_out: *mut CUlinkState
            );
            cuLinkDestroy(state: CUlinkState);
            // Functions and launches.
            cuFuncGetAttribute(value: *mut c_int, attrib: CUfunction_attribute, function: CUfunction);
            cuFuncGetName(name: *mut *const c_char, function: CUfunction);
            cuFuncGetParamInfo(function: CUfunction, index: usize, offset: *mut usize, size: *mut usize);
            cuFuncLoad(function: CUfunction);
            cuFuncSetAttribute(function: CUfunction, attrib: CUfunction_attribute, value: c_int);
            cuFuncSetCacheConfig(function: CUfunction, config: CUfunc_cache);
            cuFuncSetSharedMemConfig(function: CUfunction, config: CUsharedconfig);
            cuLaunchHostFunc(stream: CUstream, callback: CUhostFn, user_data: *mut c_void);
            cuLaunchKernel(
                function: CUfunction,
                grid_dim_x: c_uint,
                grid_dim_y: c_uint,
                grid_dim_z: c_uint,
                block_dim_x: c_uint,
                block_dim_y: c_uint,
                block_dim_z: c_uint,
                shared_mem_bytes: c_uint,
                stream: CUstream,
                kernel_params: *mut *mut c_void,
                extra: *mut *mut c_void
            );
            cuLaunchKernelEx(
                config: *const CUlaunchConfig,
                function: CUfunction,
                kernel_params: *mut *mut c_void,
                extra: *mut *mut c_void
            );
            cuOccupancyAvailableDynamicSMemPerBlock(
                dynamic_smem_size: *mut usize,
                function: CUfunction,
                num_blocks: c_int,
                block_size: c_int
            );
            cuOccupancyMaxActiveBlocksPerMultiprocessor(
                num_blocks: *mut c_int,
                function: CUfunction,
                block_size: c_int,
                dynamic_smem_size: usize
            );
            cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
                num_blocks: *mut c_int,
                function: CUfunction,
                block_size: c_int,
                dynamic_smem_size: usize,
                flags: c_uint
            );
            cuOccupancyMaxPotentialBlockSize(
                min_grid_size: *mut c_int,
                block_size: *mut c_int,
                function: CUfunction,
                block_size_to_dynamic_smem_size: CUoccupancyB2DSize,
                dynamic_smem_size: usize,
                block_size_limit: c_int
            );
            // Streams and capture.
            cuStreamAddCallback(stream: CUstream, callback: CUstreamCallback, user_data: *mut c_void, flags: c_uint);
            cuStreamBeginCapture_v2(stream: CUstream, mode: CUstreamCaptureMode);
            cuStreamCreate(stream: *mut CUstream, flags: c_uint);
            cuStreamCreateWithPriority(stream: *mut CUstream, flags: c_uint, priority: c_int);
            cuStreamDestroy_v2(stream: CUstream);
            cuStreamEndCapture(stream: CUstream, graph: *mut CUgraph);
            cuStreamGetCaptureInfo_v2(
                stream: CUstream,
                capture_status_out: *mut CUstreamCaptureStatus,
                id_out: *mut u64,
                graph_out: *mut CUgraph,
                dependencies_out: *mut *const CUgraphNode,
                num_dependencies_out: *mut usize
            );
            cuStreamGetCaptureInfo_v3(
                stream: CUstream,
                capture_status_out: *mut CUstreamCaptureStatus,
                id_out: *mut u64,
                graph_out: *mut CUgraph,
                dependencies_out: *mut *const CUgraphNode,
                edge_data_out: *mut *const CUgraphEdgeData,
                num_dependencies_out: *mut usize
            );
            cuStreamGetCtx(stream: CUstream, context: *mut CUcontext);
            cuStreamGetFlags(stream: CUstream, flags: *mut c_uint);
            cuStreamGetPriority(stream: CUstream, priority: *mut c_int);
            cuStreamIsCapturing(stream: CUstream, capture_status: *mut CUstreamCaptureStatus);
            cuStreamQuery(stream: CUstream);
            cuStreamSynchronize(stream: CUstream);
            cuStreamUpdateCaptureDependencies(
                stream: CUstream,
                dependencies: *mut CUgraphNode,
                num_dependencies: usize,
                flags: c_uint
            );
            cuStreamUpdateCaptureDependencies_v2(
                stream: CUstream,
                dependencies: *mut CUgraphNode,
                dependency_data: *const CUgraphEdgeData,
                num_dependencies: usize,
                flags: c_uint
            );
            cuStreamWaitEvent(stream: CUstream, event: CUevent, flags: c_uint);
            cuThreadExchangeStreamCaptureMode(mode: *mut CUstreamCaptureMode);
            // Events.
            cuEventCreate(event: *mut CUevent, flags: c_uint);
            cuEventDestroy_v2(event: CUevent);
            cuEventElapsedTime(milliseconds: *mut f32, start: CUevent, end: CUevent);
            cuEventQuery(event: CUevent);
            cuEventRecord(event: CUevent, stream: CUstream);
            cuEventRecordWithFlags(event: CUevent, stream: CUstream, flags: c_uint);
            cuEventSynchronize(event: CUevent);
            // Graphs.
            cuGraphAddDependencies(
                graph: CUgraph,
                from: *const CUgraphNode,
                to: *const CUgraphNode,
                num_dependencies: usize
            );
            cuGraphAddDependencies_v2(
                graph: CUgraph,
                from: *const CUgraphNode,
                to: *const CUgraphNode,
                edge_data: *const CUgraphEdgeData,
                num_dependencies: usize
            );
            cuGraphAddKernelNode(
                graph_node: *mut CUgraphNode,
                graph: CUgraph,
                dependencies: *const CUgraphNode,
                num_dependencies: usize,
                node_params: *const CUDA_KERNEL_NODE_PARAMS_v1
            );
            cuGraphClone(graph_clone: *mut CUgraph, original_graph: CUgraph);
            cuGraphCreate(graph: *mut CUgraph, flags: c_uint);
            cuGraphDebugDotPrint(graph: CUgraph, path: *const c_char, flags: c_uint);
            cuGraphDestroy(graph: CUgraph);
            cuGraphExecDestroy(graph_exec: CUgraphExec);
            cuGraphExecKernelNodeSetParams_v2(
                graph_exec: CUgraphExec,
                node: CUgraphNode,
                params: *const CUDA_KERNEL_NODE_PARAMS_v2
            );
            cuGraphExecUpdate_v2(graph_exec: CUgraphExec, graph: CUgraph, result: *mut CUgraphExecUpdateResultInfo);
            cuGraphGetEdges(graph: CUgraph, from: *mut CUgraphNode, to: *mut CUgraphNode, num_edges: *mut usize);
            cuGraphGetEdges_v2(
                graph: CUgraph,
                from: *mut CUgraphNode,
                to: *mut CUgraphNode,
                edge_data: *mut CUgraphEdgeData,
                num_edges: *mut usize
            );
            cuGraphGetNodes(graph: CUgraph, nodes: *mut CUgraphNode, num_nodes: *mut usize);
            cuGraphGetRootNodes(graph: CUgraph, root_nodes: *mut CUgraphNode, num_root_nodes: *mut usize);
            cuGraphInstantiateWithFlags(graph_exec: *mut CUgraphExec, graph: CUgraph, flags: u64);
            cuGraphInstantiateWithParams(
                graph_exec: *mut CUgraphExec,
                graph: CUgraph,
                params: *mut CUDA_GRAPH_INSTANTIATE_PARAMS
            );
            cuGraphKernelNodeCopyAttributes(dst: CUgraphNode, src: CUgraphNode);
            cuGraphKernelNodeGetAttribute(
                node: CUgraphNode,
                attr: CUlaunchAttributeID,
                value_out: *mut CUlaunchAttributeValue
            );
            cuGraphKernelNodeGetParams(node: CUgraphNode, node_params: *mut CUDA_KERNEL_NODE_PARAMS_v1);
            cuGraphKernelNodeGetParams_v2(node: CUgraphNode, params: *mut CUDA_KERNEL_NODE_PARAMS_v2);
            cuGraphKernelNodeSetAttribute(
                node: CUgraphNode,
                attr: CUlaunchAttributeID,
                value: *const CUlaunchAttributeValue
            );
            cuGraphKernelNodeSetParams_v2(node: CUgraphNode, params: *const CUDA_KERNEL_NODE_PARAMS_v2);
            cuGraphLaunch(graph_exec: CUgraphExec, stream: CUstream);
            cuGraphNodeGetDependencies(node: CUgraphNode, dependencies: *mut CUgraphNode, num_dependencies: *mut usize);
            cuGraphNodeGetDependencies_v2(
                node: CUgraphNode,
                dependencies: *mut CUgraphNode,
                edge_data: *mut CUgraphEdgeData,
                num_dependencies: *mut usize
            );
            cuGraphNodeGetDependentNodes(
                node: CUgraphNode,
                dependent_nodes: *mut CUgraphNode,
                num_dependent_nodes: *mut usize
            );
            cuGraphNodeGetDependentNodes_v2(
                node: CUgraphNode,
                dependent_nodes: *mut CUgraphNode,
                edge_data: *mut CUgraphEdgeData,
                num_dependent_nodes: *mut usize
            );
            cuGraphNodeGetEnabled(graph_exec: CUgraphExec, node: CUgraphNode, is_enabled: *mut c_uint);
            cuGraphNodeGetType(node: CUgraphNode, kind: *mut CUgraphNodeType);
            cuGraphNodeSetEnabled(graph_exec: CUgraphExec, node: CUgraphNode, is_enabled: c_uint);
            cuGraphRemoveDependencies(
                graph: CUgraph,
                from: *const CUgraphNode,
                to: *const CUgraphNode,
                num_dependencies: usize
            );
            cuGraphRemoveDependencies_v2(
                graph: CUgraph,
                from: *const CUgraphNode,
                to: *const CUgraphNode,
                edge_data: *const CUgraphEdgeData,
                num_dependencies: usize
            );
            cuGraphUpload(graph_exec: CUgraphExec, stream: CUstream);
            // Arrays, textures and foreign memory (referenced by cust).
            cuArray3DCreate_v2(handle: *mut CUarray, allocate_array: *const c_void);
            cuArray3DGetDescriptor_v2(array_descriptor: *mut c_void, array: CUarray);
            cuArrayDestroy(array: CUarray);
            cuDestroyExternalMemory(ext_mem: CUexternalMemory);
            cuExternalMemoryGetMappedBuffer(
                pointer: *mut CUdeviceptr,
                ext_mem: CUexternalMemory,
                buffer_desc: *const c_void
            );
            cuImportExternalMemory(ext_mem_out: *mut CUexternalMemory, mem_handle_desc: *const c_void);
            cuSurfObjectCreate(surf_object: *mut u64, res_desc: *const c_void);
            cuSurfObjectDestroy(surf_object: u64);
            cuSurfObjectGetResourceDesc(res_desc: *mut c_void, surf_object: u64);
            cuTexObjectCreate(
                tex_object: *mut u64,
                res_desc: *const c_void,
                tex_desc: *const c_void,
                res_view_desc: *const c_void
            );
            cuTexObjectDestroy(tex_object: u64);
            cuTexObjectGetResourceDesc(res_desc: *mut c_void, tex_object: u64);
            cuTexObjectGetResourceViewDesc(res_view_desc: *mut c_void, tex_object: u64);
        }
    };
}
