//! `NodeService`: nodes, as they said of themselves.

use super::{duration, timestamp};
use crate::feed::node_name;
use crate::keyring::{ListedNode, Liveness};
use crate::proto::v1;
use crate::revision::Position;
use crate::store::{NodeRow, NodeState};

/// A node as it is listed. Its bounds are in its state.
pub(in crate::grpc) fn node(listed: ListedNode) -> v1::Node {
    let ListedNode { node, renewed_ago, liveness, changes_behind } = listed;
    let NodeState { row, renewed, is_held: _ } = node;
    let NodeRow { boot_id, name: machine, version, started, applied, bounds: _ } = row;
    let state = match liveness {
        Liveness::Fresh => v1::NodeState::Fresh,
        Liveness::Silent => v1::NodeState::Silent,
        Liveness::Gone => v1::NodeState::Gone,
    };
    v1::Node {
        name: node_name(boot_id),
        machine,
        version,
        start_time: Some(timestamp(started)),
        revision: applied.map(Position::to_revision).unwrap_or_default(),
        changes_behind,
        state: state.into(),
        renew_time: Some(timestamp(renewed)),
        renewed_ago: Some(duration(renewed_ago)),
    }
}
