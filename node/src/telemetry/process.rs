//! What the process takes, by the names that Prometheus' clients have for it:
//! <https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>.

use std::{fmt, fs, time::Duration};

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

/// Writes what can be found out; `started` is how long ago the process was.
pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, started: Duration, unix: Duration) -> fmt::Result {
    if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
        let times = [usage.user_time(), usage.system_time()];
        let cpu: f64 = times.iter().map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6).sum();
        let help = "CPU time that the process has taken";
        let encoder = encoder.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?;
        ConstCounter::new(cpu).encode(encoder)?;
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let [resident, whole] = ["VmRSS", "VmSize"].map(|field| bytes(&status, field));
    let open = fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as f64);
    let most = getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(most, _)| most as f64);
    for (name, help, value) in [
        ("process_resident_memory_bytes", "Memory of the process that is in RAM", resident),
        ("process_virtual_memory_bytes", "Memory that the process has asked for", whole),
        ("process_open_fds", "Files and sockets that are open", open),
        ("process_max_fds", "Files and sockets that may be open", most),
        (
            "process_start_time_seconds",
            "When the process began, since 1970",
            Some((unix.saturating_sub(started)).as_secs_f64()),
        ),
    ] {
        if let Some(value) = value {
            let encoder = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(encoder)?;
        }
    }
    Ok(())
}

/// A line of `/proc/self/status` such as `VmRSS:     1234 kB`.
fn bytes(status: &str, field: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1_024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_as_the_kernel_writes_it() {
        let status = "Name:\tweft\nVmSize:\t  120000 kB\nVmRSS:\t   1000 kB\nThreads:\t4\n";
        assert_eq!((bytes(status, "VmRSS"), bytes(status, "VmSize")), (Some(1_024_000.0), Some(122_880_000.0)));
        assert_eq!((bytes(status, "Vm"), bytes(status, "Threads")), (None, None));
    }
}
