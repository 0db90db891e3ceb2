use std::{env, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let protos = PathBuf::from(env::var("CONTEX")?).join("protos");
    let mut files = Vec::new();
    for entry in fs::read_dir(protos.join("contex/v1"))? {
        files.push(entry?.path());
    }
    tonic_prost_build::configure().build_server(false).compile_protos(&files, &[protos])?;
    Ok(())
}
