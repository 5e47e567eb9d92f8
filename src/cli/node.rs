//! `latchkey node`: shows the nodes that serve from one store.

use std::process::ExitCode;

use clap::Subcommand;

use super::console::{Console, Form, OutputArguments};
use super::server::ServerArguments;
use super::table::{Table, Tone};
use super::time::shown;
use super::tree::{Tree, plain};
use super::{Environment, Outcome};
use crate::proto::v1::{ListNodesRequest, Node, NodeState};

/// `latchkey node …`.
#[derive(Debug, Subcommand)]
pub(super) enum NodeCommand {
    /// List the nodes, what each may still answer, and how far behind it is
    List {
        #[command(flatten)]
        output: OutputArguments,
        #[command(flatten)]
        server: ServerArguments,
    },
}

/// Does what the command says.
pub(super) fn run(
    command: NodeCommand,
    environment: &Environment,
    console: &mut Console,
) -> Outcome {
    let NodeCommand::List { output, server } = command;
    let answer = server.open(environment)?.call(ListNodesRequest {})?;
    match output.output {
        Form::Json => console.json(&Tree::of(&answer)),
        Form::Table => console.table(&table(&answer.nodes)),
    }
    Ok(ExitCode::SUCCESS)
}

fn table(nodes: &[Node]) -> Table {
    let mut table = Table::new(&[
        "NODE", "MACHINE", "VERSION", "STATE", "BEHIND", "RENEWED", "STARTED", "REVISION",
    ]);
    for node in nodes {
        let plain_text = |text: String| (text, Tone::Plain);
        let tone = match node.state() {
            NodeState::Fresh => Tone::Good,
            NodeState::Silent => Tone::Warn,
            NodeState::Gone | NodeState::Unspecified => Tone::Bad,
        };
        let behind = node.changes_behind.map_or_else(|| "-".to_owned(), |count| count.to_string());
        let ago = node.renewed_ago.unwrap_or_default();
        table.row([
            plain_text(node.name.clone()),
            plain_text(node.machine.clone()),
            plain_text(node.version.clone()),
            (plain(node.state().as_str_name()), tone),
            plain_text(behind),
            plain_text(format!("{}.{:01} s ago", ago.seconds, ago.nanos / 100_000_000)),
            plain_text(shown(node.start_time.as_ref())),
            plain_text(if node.revision.is_empty() {
                "-".to_owned()
            } else {
                node.revision.clone()
            }),
        ]);
    }
    table
}
