//! `CUDA_COMPUTE_CAP`: which GPUs the kernels are compiled for.

/// What is built when nothing is asked for: machine code for 8.x and for Hopper with its own instructions, and PTX that the
/// driver compiles on anything newer. PTX of `90a` would run on Hopper only, so it is of the plain `90`.
pub(crate) const DEFAULT: &str = "80,90a,90-virtual";

/// The oldest architecture whose instructions the kernels use (`cp.async`, `mma.sync` on bf16).
const OLDEST: u32 = 80;

/// One architecture and the forms in which it is embedded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Architecture {
    /// The number and suffix of `sm_` and `compute_`, as `90a`.
    pub(crate) name: String,
    /// Machine code is embedded.
    pub(crate) machine_code: bool,
    /// PTX is embedded.
    pub(crate) ptx: bool,
}

impl Architecture {
    /// nvcc's `-gencode` value.
    pub(crate) fn gencode(&self) -> String {
        format!("arch=compute_{},code=[{}]", self.name, self.images().join(","))
    }

    /// The embedded images by nvcc's names: `sm_90a` is machine code, `compute_90` is PTX.
    pub(crate) fn images(&self) -> Vec<String> {
        let machine_code = self.machine_code.then(|| format!("sm_{}", self.name));
        let ptx = self.ptx.then(|| format!("compute_{}", self.name));
        machine_code.into_iter().chain(ptx).collect()
    }
}

/// Reads a list as `90a`, `80,90a`, `8.0,9.0a` or `80,120+ptx`. `N` is machine code, `N+ptx` machine code and PTX, `N-virtual`
/// PTX alone. An entry that cannot be read, is older than 8.0 or stands twice is an error.
pub(crate) fn parse(list: &str) -> Result<Vec<Architecture>, String> {
    let mut found: Vec<Architecture> = Vec::new();
    for entry in list.split(',') {
        let architecture = parse_entry(entry.trim()).map_err(|what| {
            format!(
                "`CUDA_COMPUTE_CAP` is `{list}`: {what}; right are lists as `90a`, `80,90a`, `8.0,9.0a` or `80,120+ptx`"
            )
        })?;
        if found.iter().any(|other| other.name == architecture.name) {
            return Err(format!("`CUDA_COMPUTE_CAP` is `{list}`: `{}` stands twice", architecture.name));
        }
        found.push(architecture);
    }
    Ok(found)
}

fn parse_entry(entry: &str) -> Result<Architecture, String> {
    let lower = entry.to_ascii_lowercase();
    let (name, machine_code, ptx) = if let Some(name) = lower.strip_suffix("+ptx") {
        (name, true, true)
    } else if let Some(name) = lower.strip_suffix("-virtual") {
        (name, false, true)
    } else {
        (lower.as_str(), true, false)
    };
    let digits = name.strip_suffix(['a', 'f']).unwrap_or(name);
    let suffix = &name[digits.len()..];
    let number = match digits.split_once('.') {
        Some((major, minor)) if minor.len() == 1 => format!("{major}{minor}"),
        Some(_) => String::new(),
        None => digits.to_owned(),
    };
    let plain = (2..=3).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit());
    match number.parse::<u32>() {
        Ok(value) if plain && value >= OLDEST => {
            Ok(Architecture { name: format!("{value}{suffix}"), machine_code, ptx })
        }
        Ok(_) if plain => Err(format!("`{entry}` is older than 8.0, the oldest that the kernels run on")),
        _ => Err(format!("`{entry}` is no compute capability")),
    }
}
