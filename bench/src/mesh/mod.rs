//! What the benches of the mesh are made of: the two small programs of a call from A to B, a control plane, and members by hand.

mod control;
mod member;
mod programs;

pub(crate) use control::ControlPlane;
pub(crate) use member::Member;
pub(crate) use programs::{Program, run};
