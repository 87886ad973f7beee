//! bench
pub fn run(_q: bool) -> anyhow::Result<()> {
    Ok(())
}
