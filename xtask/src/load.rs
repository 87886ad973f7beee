//! load
pub fn run(_q: &[String]) -> anyhow::Result<()> {
    Ok(())
}
