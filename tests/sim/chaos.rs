//! What goes wrong, and when: drawn from the seed.

use std::sync::Arc;
use std::time::Duration;

use latchkey::store::{MacKey, MacKeys};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::books::Books;
use crate::dice::Dice;
use crate::people::Cast;
use crate::world::{Chance, World};

/// How long all goes well in the end, so that every node is to be right then.
const CALM: Duration = Duration::from_secs(8);
/// How far the store goes back in time at most.
const BACK: Duration = Duration::from_secs(10);

/// Rules for so long, then sets everything right.
pub(crate) async fn rule(world: &Arc<World>, cast: &Arc<Cast>, span: Duration) {
    let mut dice = world.dice.apart(7);
    let mut under_way = JoinSet::new();
    while world.now() < span.saturating_sub(CALM) {
        sleep(Duration::from_millis(200 + dice.below(2_000))).await;
        let part = dice.draw();
        let chaos =
            Chaos { world: Arc::clone(world), cast: Arc::clone(cast), dice: dice.apart(part) };
        under_way.spawn(chaos.strike());
    }
    cast.end_changes().await;
    while under_way.join_next().await.is_some() {}
    {
        let mut state = world.state();
        for link in &mut state.links {
            link.slow_one_in = 0;
        }
        state.lies.one_in = 0;
    }
    sleep(CALM).await;
}

struct Chaos {
    world: Arc<World>,
    cast: Arc<Cast>,
    dice: Dice,
}

impl Chaos {
    async fn strike(mut self) {
        let node = usize::try_from(self.dice.below(self.world.shape.nodes as u64)).unwrap();
        match self.dice.below(15) {
            0..=2 => self.cut(node).await,
            3 | 4 => self.slow(node).await,
            5 => self.stall(),
            6 => self.depose(node).await,
            7 => self.revert(),
            8 => self.crash(node).await,
            9 => self.stop(node).await,
            10 => self.renew_mac_key(),
            _ => self.disturb_redis().await,
        }
    }

    async fn some_millis(&mut self, most: u64) {
        let millis = 50 + self.dice.below(most);
        sleep(Duration::from_millis(millis)).await;
    }

    /// The same, while this node is in trouble.
    async fn trouble(&mut self, node: usize, most: u64) {
        let span = Duration::from_millis(50 + self.dice.below(most));
        self.world.trouble(node, span);
        sleep(span).await;
    }

    fn trouble_all(&self, span: Duration) {
        for node in 0..self.world.shape.nodes {
            self.world.trouble(node, span);
        }
    }

    async fn cut(&mut self, node: usize) {
        self.world.count("store cut");
        self.world.note(format_args!("node {node} is cut off"));
        {
            let link = &mut self.world.state().links[node];
            link.is_cut = true;
            link.cuts += 1;
        }
        self.trouble(node, 6_000).await;
        self.world.state().links[node].is_cut = false;
        self.world.note(format_args!("node {node} is no longer cut off"));
    }

    async fn slow(&mut self, node: usize) {
        self.world.note(format_args!("node {node} has a slow way"));
        self.world.state().links[node].slow_one_in = 2 + self.dice.below(15);
        self.trouble(node, 8_000).await;
        self.world.state().links[node].slow_one_in = 0;
    }

    fn stall(&mut self) {
        self.world.count("store stalled");
        let span = Duration::from_millis(100 + self.dice.below(4_000));
        let until = self.world.now() + span;
        self.trouble_all(span);
        self.world.note(format_args!("the store stands still until {until:?}"));
        let mut state = self.world.state();
        state.stalled_until = state.stalled_until.max(until);
    }

    async fn depose(&mut self, node: usize) {
        self.world.count("store deposed");
        self.world.note(format_args!("node {node} is with a server that was the primary"));
        {
            let mut state = self.world.state();
            let books = Arc::clone(&state.books);
            state.links[node].fork = Some(books);
        }
        self.trouble(node, 5_000).await;
        let link = &mut self.world.state().links[node];
        link.fork = None;
        link.cuts += 1;
    }

    fn revert(&mut self) {
        if !self.world.shape.may_revert {
            return;
        }
        let now = self.world.now();
        let back = Duration::from_millis(self.dice.below(u64::try_from(BACK.as_millis()).unwrap()));
        let books = {
            let state = self.world.state();
            // The first era is an empty store.
            let era = state.era_at(now.saturating_sub(back)).max(1);
            Books::clone(&state.eras[era].1)
        };
        self.world.revert(books);
    }

    fn renew_mac_key(&mut self) {
        let mut state = self.world.state();
        let current = MacKey::generate(&Chance::new(self.dice.clone()));
        let keys = &mut Arc::make_mut(&mut state.books).mac_keys;
        *keys = MacKeys { previous: Some(keys.current.clone()), current };
    }

    async fn crash(&mut self, node: usize) {
        let Some(running) = self.cast.take(node) else { return };
        self.world.count("node crashed");
        self.world.note(format_args!("node {node} is killed"));
        running.crash();
        self.some_millis(3_000).await;
        self.cast.start(node).await;
    }

    async fn stop(&mut self, node: usize) {
        let Some(running) = self.cast.take(node) else { return };
        self.world.count("node stopped");
        self.world.note(format_args!("node {node} is stopped"));
        running.stop().await;
        self.cast.start(node).await;
    }

    async fn disturb_redis(&mut self) {
        let Some(redis) = &self.cast.redis else { return };
        match self.dice.below(6) {
            0 => {
                redis.go_away();
                self.some_millis(5_000).await;
                self.world.state().lies.is_away = false;
            }
            1 => {
                let until = self.world.now() + Duration::from_millis(5 + self.dice.below(3_000));
                self.world.state().lies.frozen_until = until;
            }
            2 => self.world.state().lies.flush(),
            3 => {
                for _ in 0..20 {
                    let (epoch, n) = (self.world.state().books.epoch, self.dice.below(1_000));
                    redis.forge(format!("{epoch:016x} {n}").into_bytes());
                    sleep(Duration::from_millis(7)).await;
                }
            }
            _ => {
                self.world.state().lies.one_in = 1 + self.dice.below(5);
                self.some_millis(8_000).await;
                self.world.state().lies.one_in = 0;
            }
        }
    }
}
