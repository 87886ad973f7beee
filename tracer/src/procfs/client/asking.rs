//! Questions on their way to their answers: which go out next, and which are asked again. Values only.

use std::collections::VecDeque;

use super::{ProcessRead, ReaderAnswer, Unread};
use crate::procfs::ledger::Refused;

/// Questions that are under way at a time.
const WINDOW_MAX: usize = 64;
/// Bytes of questions that are sent at a time: of two such and one long path, a socket takes all, so that to send never waits.
const WINDOW_BYTES_MAX: usize = 16 * 1024;

/// Questions on their way to their answers.
pub(super) struct Asking {
    pub(super) questions: Vec<ProcessRead>,
    pub(super) answers: Vec<Option<Result<ReaderAnswer, Unread>>>,
    /// Those that have not been sent yet, by their places.
    pub(super) open: VecDeque<usize>,
    /// Those that have been, in their order.
    pub(super) sent: VecDeque<usize>,
}

impl Asking {
    pub(super) fn new(questions: Vec<ProcessRead>) -> Self {
        let answers = questions.iter().map(|_| None).collect();
        Self { open: (0..questions.len()).collect(), sent: VecDeque::new(), answers, questions }
    }

    pub(super) fn goes_on(&self) -> bool {
        !self.open.is_empty()
    }

    /// The next that are to be sent, as bytes, so that a reader is never without: a few at a time, which it can take whatever it
    /// hangs in. Those that may not be read have their answer.
    pub(super) fn next(&mut self, mut may_read: impl FnMut(&ProcessRead) -> Result<(), Refused>) -> Vec<u8> {
        let mut bytes = Vec::new();
        if self.sent.len() > WINDOW_MAX / 2 {
            return bytes;
        }
        while self.sent.len() < WINDOW_MAX
            && bytes.len() < WINDOW_BYTES_MAX
            && let Some(at) = self.open.pop_front()
        {
            let question = &self.questions[at];
            match may_read(question) {
                Ok(()) => {
                    question.ask.encode(&mut bytes);
                    self.sent.push_back(at);
                }
                Err(refused) => self.answers[at] = Some(Err(Unread::Refused(refused))),
            }
        }
        bytes
    }

    /// What was asked behind one that hung is asked again.
    pub(super) fn ask_again(&mut self) {
        while let Some(at) = self.sent.pop_back() {
            self.open.push_front(at);
        }
    }

    /// There is nobody to ask.
    pub(super) fn give_up(&mut self) {
        self.open.clear();
    }

    pub(super) fn answers(self) -> Vec<Result<ReaderAnswer, Unread>> {
        self.answers.into_iter().map(|answer| answer.unwrap_or(Err(Unread::NoReader))).collect()
    }
}
