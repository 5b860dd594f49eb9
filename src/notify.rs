//! Tells the service manager how it goes (`sd_notify`). Silent where there is none.

use std::time::Duration;

use sd_notify::NotifyState;

/// The start is over: leader or standby.
pub fn ready() {
    send(NotifyState::Ready);
}

/// One line for `systemctl status`.
pub fn status(text: &str) {
    send(NotifyState::Status(text));
}

pub fn stopping() {
    send(NotifyState::Stopping);
}

/// Feeds the watchdog: only while [`crate::pipeline::Status::is_alive`].
pub fn alive() {
    send(NotifyState::Watchdog);
}

/// How often the watchdog must be fed: half of what the service manager allows, as it advises.
/// `None`: it does not watch.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

/// A service manager that does not listen must not stop the pipeline.
fn send(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "service manager was not reached");
    }
}
