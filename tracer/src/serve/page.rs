//! The page of `/metrics` as it is handed out: written once a look, however many ask for it, and taken in pieces, so that
//! readers who do not read hold a bounded number of pages.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    task::{Context, Poll},
};

use anyhow::Result;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as Contents, Frame, SizeHint};

use super::http::Body;
use crate::metrics::{self, Metrics};

/// What a connection takes at a time.
const PIECE_BYTES: usize = 16 * 1024;
/// Pages that are kept for those who still read them. Who reads an older one loses the connection: a page of the largest host
/// has a few megabytes.
const PAGES_MAX: usize = 8;

/// The latest page, and those before it that are being read.
pub struct Pages {
    metrics: Arc<Metrics>,
    kept: Mutex<CachedPage>,
}

#[derive(Default)]
struct CachedPage {
    latest: Option<Arc<MetricsPage>>,
    /// Oldest first.
    earlier: VecDeque<Weak<MetricsPage>>,
}

/// A page.
struct MetricsPage {
    /// The look it is of.
    look: u64,
    length: usize,
    /// None once it has been taken from its readers.
    pieces: Mutex<Option<Vec<Bytes>>>,
}

impl Pages {
    /// None yet.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, kept: Mutex::default() }
    }

    /// The page of the last look.
    pub fn latest(&self) -> Result<Body> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let look = self.metrics.lock().looks();
        let page = match &kept.latest {
            Some(page) if page.look == look => Arc::clone(page),
            _ => {
                let page = Arc::new(MetricsPage::new(look, &metrics::page(&self.metrics)?));
                kept.put(Arc::clone(&page));
                page
            }
        };
        Ok(PageReader { page, next: 0, rested: false }.boxed())
    }
}

impl CachedPage {
    /// Takes the place of the latest. Of the earlier ones those stay that somebody reads, so many at most.
    fn put(&mut self, page: Arc<MetricsPage>) {
        if let Some(before) = self.latest.replace(page) {
            self.earlier.push_back(Arc::downgrade(&before));
        }
        self.earlier.retain(|page| page.strong_count() > 0);
        while self.earlier.len() >= PAGES_MAX {
            if let Some(page) = self.earlier.pop_front().and_then(|page| page.upgrade()) {
                page.pieces().take();
            }
        }
    }
}

impl MetricsPage {
    fn new(look: u64, text: &[u8]) -> Self {
        let pieces = text.chunks(PIECE_BYTES).map(Bytes::copy_from_slice).collect();
        Self { look, length: text.len(), pieces: Mutex::new(Some(pieces)) }
    }

    fn pieces(&self) -> std::sync::MutexGuard<'_, Option<Vec<Bytes>>> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A page being read.
struct PageReader {
    page: Arc<MetricsPage>,
    /// The piece that is next.
    next: usize,
    /// The others have had their turn since the last piece.
    rested: bool,
}

impl Contents for PageReader {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.is_end_stream() {
            return Poll::Ready(None);
        }
        // A client that reads as fast as it is written to would keep the only thread for pages on end.
        self.rested = !self.rested;
        if self.rested {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let piece = self.page.pieces().as_ref().and_then(|pieces| pieces.get(self.next).cloned());
        self.next += 1;
        // The connection ends with the error.
        Poll::Ready(Some(piece.map(Frame::data).ok_or_else(|| io::Error::other("read too slowly"))))
    }

    fn is_end_stream(&self) -> bool {
        self.next * PIECE_BYTES >= self.page.length
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.page.length.saturating_sub(self.next * PIECE_BYTES) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a piece.
    fn read(reader: &mut PageReader) -> Option<Result<Bytes, io::Error>> {
        let mut context = Context::from_waker(std::task::Waker::noop());
        loop {
            if let Poll::Ready(frame) = Pin::new(&mut *reader).poll_frame(&mut context) {
                return frame.map(|frame| frame.map(|frame| frame.into_data().unwrap_or_default()));
            }
        }
    }

    fn page(look: u64) -> (Arc<MetricsPage>, Vec<u8>) {
        let text: Vec<u8> = (0..PIECE_BYTES * 3 + 5).map(|at| (at % 251) as u8).collect();
        (Arc::new(MetricsPage::new(look, &text)), text)
    }

    #[test]
    fn it_is_read_in_pieces_and_whole() {
        let (page, text) = page(1);
        let mut reader = PageReader { page, next: 0, rested: false };
        assert_eq!(reader.size_hint().exact(), Some(text.len() as u64));
        let mut whole = Vec::new();
        while let Some(piece) = read(&mut reader) {
            whole.extend(piece.expect("nobody takes it away"));
        }
        assert!(whole == text && reader.is_end_stream() && reader.size_hint().exact() == Some(0));
    }

    #[test]
    fn readers_of_the_oldest_lose_it_and_pages_nobody_reads_go() {
        let mut kept = CachedPage::default();
        let mut readers: Vec<PageReader> = (0..20)
            .map(|look| {
                let (page, _) = page(look);
                kept.put(Arc::clone(&page));
                PageReader { page, next: 1, rested: false }
            })
            .collect();
        let reading: Vec<bool> =
            readers.iter_mut().map(|reader| read(reader).is_some_and(|piece| piece.is_ok())).collect();
        assert_eq!(reading.iter().position(|reads| *reads), Some(20 - PAGES_MAX), "{reading:?}");
        assert!(reading[20 - PAGES_MAX..].iter().all(|reads| *reads));
        drop(readers);
        kept.put(page(20).0);
        assert_eq!(kept.earlier.len(), 0);
    }

    #[test]
    fn it_is_written_once_a_look() {
        let metrics = Arc::new(Metrics::default());
        let pages = Pages::new(Arc::clone(&metrics));
        let look = || pages.kept.lock().expect("unharmed").latest.as_ref().map(Arc::as_ptr);
        pages.latest().expect("it is written");
        let first = look();
        pages.latest().expect("it is there");
        assert_eq!(look(), first);
        metrics.lock().settle(0, |_| false, |_| true);
        pages.latest().expect("it is written");
        assert_ne!(look(), first);
    }
}
