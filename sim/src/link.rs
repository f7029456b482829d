//! Streams: what is sent arrives in order or, once the stream broke, not at all. Each end learns of that in its own time.

use crate::Micros;

/// One direction of a stream.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Pipe {
    last: Micros,
}

impl Pipe {
    /// When what is sent now arrives: not before what was sent earlier, nor while the way is blocked.
    pub(crate) fn arrival(
        &mut self,
        now: Micros,
        latency: Micros,
        blocked_until: Micros,
    ) -> Micros {
        let clear = now.max(blocked_until) + latency;
        self.last = self.last.max(clear);
        self.last
    }
}

/// The connection of an agent, or of a scheduler's event stream. The far end is the master's.
#[derive(Debug)]
pub(crate) struct Stream {
    /// The machine or the tenant at the near end.
    pub(crate) owner: usize,
    pub(crate) near_open: bool,
    pub(crate) master_open: bool,
    /// The master's core said that it is over.
    pub(crate) ended_by_master: bool,
    /// Nothing passes any more, whatever the ends believe.
    pub(crate) cut: bool,
    pub(crate) to_master: Pipe,
    pub(crate) to_near: Pipe,
}

impl Stream {
    pub(crate) fn new(owner: usize) -> Self {
        Self {
            owner,
            near_open: true,
            master_open: true,
            ended_by_master: false,
            cut: false,
            to_master: Pipe::default(),
            to_near: Pipe::default(),
        }
    }
}
