//! Figures of a machine under the names that Mesos's tools ask for, from what its `/proc` says.

/// From the texts of `/proc/loadavg` and `/proc/meminfo`; what they do not tell is left out.
pub fn system_metrics(
    processors: Option<usize>,
    loadavg: &str,
    meminfo: &str,
) -> Vec<(&'static str, f64)> {
    let mut figures: Vec<(&'static str, f64)> = processors
        .map(|processors| ("system/cpus_total", processors as f64))
        .into_iter()
        .collect();
    let names = ["system/load_1min", "system/load_5min", "system/load_15min"];
    let loads = loadavg.split_whitespace();
    figures.extend(
        names
            .into_iter()
            .zip(loads.map_while(|load| load.parse().ok())),
    );
    for (field, name) in [
        ("MemTotal:", "system/mem_total_bytes"),
        ("MemFree:", "system/mem_free_bytes"),
    ] {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(field));
        let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        figures.extend(kibibytes.map(|kibibytes| (name, kibibytes * 1024.0)));
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::system_metrics;

    #[test]
    fn what_is_told_is_read_and_the_rest_left_out() {
        let meminfo = "MemTotal:        2048 kB\nMemFree:          512 kB\n";
        assert_eq!(
            system_metrics(Some(4), "0.50 1.25 x 1/2 3\n", meminfo),
            [
                ("system/cpus_total", 4.0),
                ("system/load_1min", 0.5),
                ("system/load_5min", 1.25),
                ("system/mem_total_bytes", 2_097_152.0),
                ("system/mem_free_bytes", 524_288.0),
            ]
        );
        assert_eq!(system_metrics(None, "", ""), []);
    }
}
