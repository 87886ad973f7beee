//! The terminal: how it is taken, drawn on and given back. It may go at any moment, as with a dropped connection: then every
//! write fails, standard error's too, and nothing here may print.

use std::{
    io::{self, Stdout, stdout},
    mem::ManuallyDrop,
    panic,
};

use anyhow::{Context, Result};
use ratatui::{
    DefaultTerminal, Terminal, TerminalOptions, Viewport,
    backend::CrosstermBackend,
    crossterm::{
        cursor::Show,
        event::{DisableMouseCapture, EnableMouseCapture},
        execute,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
    layout::Rect,
};

use super::{model::Model, view};
use crate::util::human;

/// The terminal, which gets back what it was when this is dropped.
pub struct Screen {
    /// Never dropped itself: its own drop prints an error where the terminal has gone, and panics as that cannot be printed.
    terminal: ManuallyDrop<DefaultTerminal>,
    area: Rect,
}

impl Screen {
    /// Takes the terminal. From now on a panic puts it back before it says anything.
    pub fn open() -> Result<Self> {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            give_back();
            before(info);
        }));
        let area = area();
        let terminal = take(area).inspect_err(|_| give_back()).context("cannot draw on this terminal")?;
        Ok(Self { terminal: ManuallyDrop::new(terminal), area })
    }

    /// Draws what has changed.
    pub fn draw(&mut self, model: &Model, host: &view::Host) -> Result<()> {
        self.fit()
            .and_then(|()| self.terminal.draw(|frame| view::draw(frame, model, host)).map(drop))
            .context("cannot draw on this terminal any more")
    }

    /// Draws everything anew where the terminal has another size.
    fn fit(&mut self) -> io::Result<()> {
        let area = area();
        if area != self.area {
            self.area = area;
            self.terminal.resize(area)?;
        }
        Ok(())
    }

    /// Lines of the table that fit, and columns.
    pub fn room(&self) -> (usize, usize) {
        let area = area();
        (view::page(area.height), area.width.into())
    }

    /// Lines above the table's first.
    pub fn header(&self) -> u16 {
        let height = area().height;
        height.saturating_sub(view::page(height) as u16 + 1)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn take(area: Rect) -> io::Result<Terminal<CrosstermBackend<Stdout>>> {
    enable_raw_mode()?;
    execute!(stdout(), EnterAlternateScreen, EnableMouseCapture)?;
    // Of a size that is told, since the terminal itself may say that it has none.
    let options = TerminalOptions { viewport: Viewport::Fixed(area) };
    Terminal::with_options(CrosstermBackend::new(stdout()), options)
}

/// Gives the terminal back as it was. One that has gone takes nothing, and nobody is there to be told.
fn give_back() {
    let _ = disable_raw_mode();
    let _ = execute!(stdout(), DisableMouseCapture, LeaveAlternateScreen, Show);
}

fn area() -> Rect {
    let (width, height) = human::terminal_size();
    Rect::new(0, 0, width, height)
}
