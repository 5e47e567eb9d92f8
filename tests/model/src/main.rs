//! Searches the protocol for a way to break it, then breaks it in every known way and expects each to be found.
//!
//!     latchkey-model                 every world at its small size
//!     latchkey-model --large         at its large one
//!     latchkey-model --broken NAME   one way to break it, and how

mod broken;
mod node;
mod store;
mod world;
mod worlds;

use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};

use stateright::{Checker, Model};

use self::broken::Broken;
use self::world::{Budget, Search, Seen};
use self::worlds::{Size, WORLDS};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    let is_right = match words[..] {
        [] => all(Size::Small),
        ["--large"] => all(Size::Large),
        ["--broken", name] => match Broken::ALL.iter().find(|it| format!("{it:?}") == name) {
            Some(broken) => is_found(*broken, true),
            None => {
                eprintln!("no {name}; there are: {:?}", Broken::ALL);
                return ExitCode::from(2);
            }
        },
        _ => {
            eprintln!("usage: latchkey-model [--large | --broken NAME]");
            return ExitCode::from(2);
        }
    };
    if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Every world holds, and everything that is broken is found.
fn all(size: Size) -> bool {
    let mut seen = 0;
    let mut is_right = true;
    for world in WORLDS {
        let (found, states, saw) = search(world.budget(size), None, true);
        println!(
            "{:12} {states:>10} states  {}",
            world.name,
            if found { "BROKEN" } else { "holds" }
        );
        is_right &= !found;
        seen |= saw;
    }
    for what in Seen::ALL {
        if seen & 1 << what as u32 == 0 {
            println!("{what:?} was never seen: the search shows nothing of it");
            is_right = false;
        }
    }
    for broken in Broken::ALL {
        is_right &= is_found(broken, false);
    }
    is_right
}

fn is_found(broken: Broken, tells: bool) -> bool {
    let world = WORLDS.iter().find(|world| world.name == broken.world()).expect("it has a world");
    let (found, states, _) = search(world.budget(Size::Small), Some(broken), tells);
    let (name, told) = (format!("{broken:?}"), if found { "found" } else { "NOT FOUND" });
    println!("{name:24} {told} in {}, {states} states", world.name);
    found
}

/// Whether something wrong was found, among how many states, and what was seen.
fn search(budget: Budget, broken: Option<Broken>, tells: bool) -> (bool, usize, u32) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let search = Search { budget, broken, seen: AtomicU32::new(0) };
    let checker = search.checker().threads(threads).spawn_bfs().join();
    let found = checker.discoveries();
    if tells && let Some(path) = found.values().next() {
        println!(
            "{}",
            path.clone()
                .into_actions()
                .iter()
                .map(|action| format!("    {action:?}\n"))
                .collect::<String>()
        );
        println!("    {:?}\n", path.last_state());
    }
    (!found.is_empty(), checker.unique_state_count(), checker.model().seen.load(Ordering::Relaxed))
}
