//! `corpus FOLDER`: writes each target's seeds where libFuzzer looks for them.

use std::io::Write as _;

fn main() -> std::io::Result<()> {
    let Some(folder) = std::env::args_os().nth(1) else {
        return Err(std::io::Error::other("usage: corpus FOLDER"));
    };
    for target in fuzzing::all() {
        let folder = std::path::Path::new(&folder).join(target.name);
        std::fs::create_dir_all(&folder)?;
        for (number, seed) in fuzzing::seeds::of(target.name).iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number}")), seed)?;
        }
        writeln!(std::io::stdout(), "{}", target.name)?;
    }
    Ok(())
}
