//! Edges of graphs and what they stand for (CUDA driver API, CUgraphEdgeData and CUgraphDependencyType; CUDA programming guide, "Edge
//! Data" and "Programmatic Dependent Launch").
//!
//! | edge data | code |
//! |---|---|
//! | zeros | a full dependency between any two nodes |
//! | `reserved` or `to_port` not zero, `from_port` above 2, `kind` above 1 | 1 |
//! | a port other than 0 out of a node that is no kernel | 1 |
//! | a programmatic edge into a node that is no kernel, or out of port 0 | 1 |
//! | the programmatic port without the programmatic kind | 1 |
//!
//! The launch-order port is kept and handed out. CUDA calls it a best effort, so that waiting for the end of the kernel is right, too.

use gridpoint_driver::{
    CU_GRAPH_KERNEL_NODE_PORT_DEFAULT as DEFAULT_PORT, CU_GRAPH_KERNEL_NODE_PORT_LAUNCH_ORDER as LAUNCH_ORDER_PORT,
    CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC as PROGRAMMATIC_PORT, CUgraphDependencyType as Type, CUgraphEdgeData,
    CUgraphNodeType as Kind, CUresult,
};

use super::Answer;

/// An edge, as the node that it leads to keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Edge<N> {
    /// Where it comes from: a node of a graph, or the place of one in an image.
    pub(super) from: N,
    pub(super) data: CUgraphEdgeData,
}

impl<N> Edge<N> {
    /// A dependency on the whole of a node.
    pub(super) fn full(from: N) -> Self {
        Self { from, data: CUgraphEdgeData::default() }
    }

    /// A dependency of a kernel on one that may let it start early.
    pub(super) fn programmatic(from: N) -> Self {
        Self { from, data: CUgraphEdgeData::PROGRAMMATIC }
    }

    /// Whether the node behind it runs only when this one has ended.
    pub(super) fn is_full(&self) -> bool {
        self.data == CUgraphEdgeData::default()
    }

    /// Whether the kernel behind it may start early.
    pub(super) fn is_programmatic(&self) -> bool {
        self.data == CUgraphEdgeData::PROGRAMMATIC
    }

    /// The same data on an edge from elsewhere.
    pub(super) fn moved<M>(&self, from: M) -> Edge<M> {
        Edge { from, data: self.data }
    }

    /// Of two edges between the same nodes, whether this one waits for more.
    pub(super) fn is_stricter_than(&self, other: &Self) -> bool {
        let rank = |edge: &Self| (edge.data.from_port, edge.data.kind == Type::DEFAULT.0 as u8);
        rank(self) < rank(other)
    }
}

/// Refuses data that no edge out of a node of this kind can have.
pub(super) fn check_outgoing(data: CUgraphEdgeData, from: Kind) -> Answer {
    let CUgraphEdgeData { from_port, to_port, kind, reserved } = data;
    let programmatic = match Type(u32::from(kind)) {
        Type::DEFAULT => false,
        Type::PROGRAMMATIC => true,
        _ => return Err(CUresult::ERROR_INVALID_VALUE),
    };
    let fits = match from_port {
        DEFAULT_PORT => !programmatic,
        PROGRAMMATIC_PORT => programmatic && from == Kind::KERNEL,
        LAUNCH_ORDER_PORT => from == Kind::KERNEL,
        _ => false,
    };
    if fits && to_port == 0 && reserved == [0; 5] { Ok(()) } else { Err(CUresult::ERROR_INVALID_VALUE) }
}

/// Refuses data that no edge between two nodes of these kinds can have.
pub(super) fn check(data: CUgraphEdgeData, from: Kind, to: Kind) -> Answer {
    check_outgoing(data, from)?;
    if Type(u32::from(data.kind)) == Type::PROGRAMMATIC && to != Kind::KERNEL {
        return Err(CUresult::ERROR_INVALID_VALUE);
    }
    Ok(())
}
