//! The index behind the matcher: among rows in a fixed order, the first one from a position on that is in a given class and
//! offers enough.
//!
//! Classes are nested sets of rows: "P >= p" for every p that makes a difference, and one for the decode-only rows. Each has
//! a binary tree of maxima over blocks of [`BLOCK`] rows; trees share the nodes in which they agree (path copying: Driscoll,
//! Sarnak, Sleator and Tarjan, "Making data structures persistent", 1989). A look-up is one descent: O(log n), whatever the
//! points are. Memory is O(n log n) at worst and near O(n) for plans, which have few values of P.

/// Rows under one leaf, scanned one by one: few enough to lie in two cache lines.
pub(crate) const BLOCK: usize = 8;

/// What a row offers. Stored plus one in the nodes, where 0 stands for "no row".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offer {
    /// D.
    pub(crate) decodes: u64,
    /// P + D.
    pub(crate) requests: u64,
}

/// Which of the two offers a look-up asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// D >= the number.
    Decodes(u64),
    /// P + D >= the number.
    Requests(u64),
}

/// A class of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Root(u32);

/// The class without rows.
pub(crate) const NO_ROWS: Root = Root(0);

#[derive(Debug, Clone, Copy, Default)]
struct Node {
    left: u32,
    right: u32,
    decodes: u64,
    requests: u64,
}

impl Node {
    fn meets(&self, need: Need) -> bool {
        match need {
            Need::Decodes(least) => self.decodes > least,
            Need::Requests(least) => self.requests > least,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Successor {
    /// Node 0 has no rows and is its own child.
    nodes: Vec<Node>,
    /// Leaves: a power of two.
    blocks: usize,
}

impl Successor {
    pub(crate) fn new(rows: usize) -> Self {
        Self { nodes: vec![Node::default()], blocks: rows.div_ceil(BLOCK).next_power_of_two() }
    }

    /// The class of `base` and these rows besides, which are in ascending order of position.
    pub(crate) fn extend(&mut self, base: Root, rows: &[(usize, Offer)]) -> Root {
        Root(self.extend_node(base.0, 0, self.blocks, rows))
    }

    fn extend_node(&mut self, base: u32, from: usize, to: usize, rows: &[(usize, Offer)]) -> u32 {
        if rows.is_empty() {
            return base;
        }
        let mut node = self.nodes[base as usize];
        for (_, offer) in rows {
            node.decodes = node.decodes.max(offer.decodes + 1);
            node.requests = node.requests.max(offer.requests + 1);
        }
        if to - from > 1 {
            let middle = from.midpoint(to);
            let (left, right) = rows.split_at(rows.partition_point(|(position, _)| position / BLOCK < middle));
            node.left = self.extend_node(node.left, from, middle, left);
            node.right = self.extend_node(node.right, middle, to, right);
        }
        let index = u32::try_from(self.nodes.len()).expect("fewer than 2^32 nodes");
        self.nodes.push(node);
        index
    }

    /// The first row of the class at or after `start` for which `fits` holds, `fits` being true for exactly those rows that
    /// are in the class and meet the need. `rows` is the number of rows.
    pub(crate) fn first(
        &self,
        class: Root,
        start: usize,
        rows: usize,
        need: Need,
        fits: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let scan = |block: usize, start: usize| {
            (start.max(block * BLOCK)..rows.min((block + 1) * BLOCK)).find(|&position| fits(position))
        };
        let start_block = start / BLOCK;
        if start_block >= self.blocks {
            return None;
        }
        // Down to the block of `start`, remembering the nearest subtree to the right of the path that meets the need.
        let (mut node, mut from, mut to) = (class.0, 0, self.blocks);
        let mut right = None;
        while self.node(node).meets(need) {
            if to - from == 1 {
                if let Some(position) = scan(from, start) {
                    return Some(position);
                }
                break;
            }
            let middle = from.midpoint(to);
            let children = self.node(node);
            if start_block < middle {
                if self.node(children.right).meets(need) {
                    right = Some((children.right, middle, to));
                }
                (node, to) = (children.left, middle);
            } else {
                (node, from) = (children.right, middle);
            }
        }
        let (mut node, mut from, mut to) = right?;
        while to - from > 1 {
            let middle = from.midpoint(to);
            let children = self.node(node);
            if self.node(children.left).meets(need) {
                (node, to) = (children.left, middle);
            } else {
                (node, from) = (children.right, middle);
            }
        }
        scan(from, start)
    }

    /// The most that a row of the class offers. None for a class without rows.
    pub(crate) fn most(&self, class: Root) -> Option<Offer> {
        let node = self.node(class.0);
        let decodes = node.decodes.checked_sub(1)?;
        Some(Offer { decodes, requests: node.requests.saturating_sub(1) })
    }

    fn node(&self, index: u32) -> &Node {
        &self.nodes[index as usize]
    }
}
