//! Attributes of kernel nodes (CUDA driver API, cuGraphKernelNodeGetAttribute, SetAttribute and CopyAttributes).
//!
//! A node keeps the attributes of the launch that it was captured from: its cluster, and the priority that the launch asked for or that
//! its stream had. Programmatic serialisation is an attribute of launches and none of nodes: what it means for a node is in the data of
//! the node's edges. Attributes that a launch may have without effect here are not kept, and answer `NOT_SUPPORTED`.

use std::sync::Arc;

use gridpoint_driver::{
    CUgraphNode, CUlaunchAttributeID as Attribute, CUlaunchAttributeValue as Value, CUresult, Table,
};

use super::launch::check_cluster;
use super::state::State;
use super::work::Work;
use super::{Answer, get, in_context, put};

pub(super) fn fill(table: &mut Table) {
    table.cuGraphKernelNodeGetAttribute = get_attribute;
    table.cuGraphKernelNodeSetAttribute = set_attribute;
    table.cuGraphKernelNodeCopyAttributes = copy_attributes;
}

/// What is answered for an attribute that is not kept.
fn not_kept(attribute: Attribute) -> CUresult {
    match attribute {
        Attribute::ACCESS_POLICY_WINDOW
        | Attribute::CLUSTER_SCHEDULING_POLICY_PREFERENCE
        | Attribute::MEM_SYNC_DOMAIN_MAP
        | Attribute::MEM_SYNC_DOMAIN
        | Attribute::PREFERRED_CLUSTER_DIMENSION
        | Attribute::DEVICE_UPDATABLE_KERNEL_NODE
        | Attribute::PREFERRED_SHARED_MEMORY_CARVEOUT => CUresult::ERROR_NOT_SUPPORTED,
        _ => CUresult::ERROR_INVALID_VALUE,
    }
}

impl State {
    /// Gives a node's kernel another cluster and priority. Executable graphs made before keep the old ones.
    fn set_kernel_attributes(&mut self, node: CUgraphNode, cluster: [u32; 3], priority: i32) -> Answer {
        check_cluster(self.kernel_node(node)?.grid, cluster)?;
        match self.node_work(node)? {
            Work::Kernel(kernel) => match Arc::get_mut(kernel) {
                // In place, so that parameter addresses that were handed out stay valid.
                Some(own) => (own.cluster, own.priority) = (cluster, priority),
                None => {
                    let mut copy = kernel.duplicate();
                    (copy.cluster, copy.priority) = (cluster, priority);
                    *kernel = Arc::new(copy);
                }
            },
            _ => return Err(CUresult::ERROR_INVALID_VALUE),
        }
        Ok(())
    }
}

/// The cluster of a node without one is one block.
unsafe extern "C" fn get_attribute(node: CUgraphNode, attribute: Attribute, value: *mut Value) -> CUresult {
    in_context(|state| {
        let kernel = state.kernel_node(node)?;
        let mut found = Value { pad: [0; 64] };
        match attribute {
            Attribute::CLUSTER_DIMENSION => found.cluster = kernel.cluster,
            Attribute::PRIORITY => found.value = kernel.priority,
            Attribute::COOPERATIVE => found.value = 0,
            other => return Err(not_kept(other)),
        }
        put!(value, found)
    })
}

unsafe extern "C" fn set_attribute(node: CUgraphNode, attribute: Attribute, value: *const Value) -> CUresult {
    in_context(|state| {
        let kernel = state.kernel_node(node)?;
        let (cluster, priority) = (kernel.cluster, kernel.priority);
        let value = get!(value)?;
        // SAFETY: the caller set the part of the union that the attribute's name says.
        let number = || unsafe { value.value };
        match attribute {
            // SAFETY: as above.
            Attribute::CLUSTER_DIMENSION => state.set_kernel_attributes(node, unsafe { value.cluster }, priority),
            Attribute::PRIORITY => state.set_kernel_attributes(node, cluster, number()),
            Attribute::COOPERATIVE if number() == 0 => Ok(()),
            Attribute::COOPERATIVE => Err(CUresult::ERROR_NOT_SUPPORTED),
            other => Err(not_kept(other)),
        }
    })
}

unsafe extern "C" fn copy_attributes(to: CUgraphNode, from: CUgraphNode) -> CUresult {
    in_context(|state| {
        let from = state.kernel_node(from)?;
        let (cluster, priority) = (from.cluster, from.priority);
        state.set_kernel_attributes(to, cluster, priority)
    })
}
