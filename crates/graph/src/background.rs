//! Capture on a thread of its own, with a stream of its own, while steps are launched eagerly.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use gridpoint_plan::GridPoint;
use gridpoint_runtime::{Device, Graph, RuntimeError, Stream};

use crate::recorded::{MakeTimes, PointLaunches};

/// A graph that was made, or why it could not be.
pub(crate) type Made = Result<(Graph<()>, MakeTimes), RuntimeError>;

/// Which executables are still to be made, the next one in front.
type Queue = Arc<Mutex<VecDeque<usize>>>;

/// The thread. Dropping it waits for the graph that is being made, and for no other.
pub(crate) struct Background {
    thread: Option<JoinHandle<()>>,
    queue: Queue,
    made: Receiver<(usize, Made)>,
}

impl Background {
    /// Makes all of `distinct` executable, in their order.
    ///
    /// # Errors
    /// What the operating system says of the thread.
    pub(crate) fn start(device: &Arc<Device>, distinct: &[(GridPoint, Arc<PointLaunches>)]) -> std::io::Result<Self> {
        let queue: Queue = Arc::new(Mutex::new((0..distinct.len()).collect()));
        let (sender, made) = channel();
        let (device, distinct, work) = (Arc::clone(device), distinct.to_vec(), Arc::clone(&queue));
        let thread = Builder::new()
            .name("gridpoint capture".to_owned())
            .spawn(move || make_all(&device, &distinct, &work, &sender))?;
        Ok(Self { thread: Some(thread), queue, made })
    }

    /// Puts an executable in front of all others that wait.
    pub(crate) fn prefer(&self, executable: usize) {
        let mut queue = locked(&self.queue);
        if let Some(place) = queue.iter().position(|&waiting| waiting == executable).filter(|&place| place > 0) {
            queue.remove(place);
            queue.push_front(executable);
        }
    }

    /// What has been made and not been asked for yet; `None` once nothing will come any more.
    pub(crate) fn next(&self) -> Option<Option<(usize, Made)>> {
        match self.made.try_recv() {
            Ok(made) => Some(Some(made)),
            Err(TryRecvError::Empty) => Some(None),
            Err(TryRecvError::Disconnected) => None,
        }
    }

    /// Waits for the next one.
    pub(crate) fn wait(&self) -> Option<(usize, Made)> {
        self.made.recv().ok()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        locked(&self.queue).clear();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that captured graphs panicked");
        }
    }
}

fn locked(queue: &Queue) -> MutexGuard<'_, VecDeque<usize>> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

fn make_all(
    device: &Arc<Device>,
    distinct: &[(GridPoint, Arc<PointLaunches>)],
    queue: &Queue,
    sender: &Sender<(usize, Made)>,
) {
    let stream = device.make_current().and_then(|()| Stream::new(device));
    loop {
        // Not in the condition of a `while let`: the lock would be held while the graph is made.
        let Some(executable) = locked(queue).pop_front() else { return };
        let made = stream.as_ref().map_err(Clone::clone).and_then(|stream| {
            let (point, launches) = &distinct[executable];
            let made = launches.make_for(*point, stream)?;
            stream.synchronize()?;
            Ok(made)
        });
        if sender.send((executable, made)).is_err() {
            return;
        }
    }
}
