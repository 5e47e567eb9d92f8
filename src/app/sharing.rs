//! Redis, where one is configured: its address, and the tasks that go on beside the reader.

use std::sync::Arc;

use super::Node;
use super::background::Background;
use crate::cache::redis::{Address, Redis};
use crate::clock::Entropy;
use crate::config::Config;
use crate::failure::Failure;
use crate::store::Store;

/// A handle on Redis; nothing is connected yet.
pub(super) fn redis(
    config: &Config,
    entropy: &Arc<dyn Entropy>,
) -> Result<Option<Arc<Redis>>, Failure> {
    let address = config.redis.address().map_err(Failure::new)?;
    if address.as_ref().is_some_and(Address::is_exposed) {
        tracing::warn!(
            "what is kept in Redis passes in the clear, with whom keys belong to and what they may do: \
             write `rediss` in redis.url, or see to it that nobody stands between"
        );
    }
    Ok(address.map(|address| Arc::new(Redis::new(address, Arc::clone(entropy)))))
}

/// Starts what goes on with Redis all the time; none of it ends, whatever becomes of Redis.
pub(super) fn start(tasks: &mut Background, node: &Node, store: &dyn Store) {
    let Some(redis) = &node.redis else { return };
    let of = || (Arc::clone(redis), Arc::clone(&node.cache));
    let (redis, _) = of();
    tasks.start("the connection to Redis", async move { redis.keep_connected().await });
    let (redis, _) = of();
    tasks.start("the writer to Redis", async move { redis.keep_writing().await });
    let ((redis, cache), commits) = (of(), store.commits());
    tasks.start("the teller of changes", async move {
        redis.keep_telling(&cache, commits).await;
    });
    let ((redis, cache), feed) = (of(), node.feed.clone());
    tasks.start("the listener to changes", async move {
        redis.keep_listening(&cache, || feed.nudge()).await;
    });
}
