//! What all protocols and devices share of the packet path (`net/core/`).
//!
//! Nothing here recurses or waits: whatever goes on to another device is put into the queue of [`softirq`], and what leaves the
//! model (frames for programs, messages for sockets) is collected for whoever drives it.

mod dev;
mod neighbour;
pub mod offload;
mod route;
pub mod skbuff;
pub mod softirq;

pub(super) use neighbour::NeighState;
pub use route::Dst;
pub(super) use route::is_link_scope;
