//! Tasks that must not end while we serve: the reader and the time keeper.
//!
//! Without its reader a node would go on answering from what it knew, and nobody would notice.

use tokio::task::JoinSet;

/// Tasks at work; dropping them ends them.
#[derive(Default)]
pub(super) struct Background(JoinSet<&'static str>);

impl Background {
    /// Starts a task of this name.
    pub(super) fn start(
        &mut self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        self.0.spawn(async move {
            task.await;
            name
        });
    }

    /// Waits until one of them ends, and says what happened; for ever, as long as all is well.
    pub(super) async fn broken(&mut self) -> String {
        match self.0.join_next().await {
            Some(Ok(name)) => format!("{name} came to its end"),
            Some(Err(error)) => error.to_string(),
            None => std::future::pending().await,
        }
    }

    /// Ends them all.
    pub(super) async fn end(mut self) {
        self.0.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_is_named() {
        let mut tasks = Background::default();
        tasks.start("the one that stays", std::future::pending());
        tasks.start("the reader", async {});
        assert_eq!(tasks.broken().await, "the reader came to its end");
    }

    #[tokio::test]
    async fn a_task_that_panics_tells_why() {
        let mut tasks = Background::default();
        tasks.start("the one that stays", std::future::pending());
        tasks.start("the reader", async { panic!("out of order") });
        let told = tasks.broken().await;
        assert!(told.contains("panicked") && told.contains("out of order"), "{told}");
    }
}
