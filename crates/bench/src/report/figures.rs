//! The figures of each experiment: from results to bars and lines.

use restore::{Phase, Technique, Timeline};

use super::Kind;
use crate::experiments::burst::{self, Snapshots};
use crate::experiments::{ablation, inputs, slow_disk};
use crate::mode::Mode;
use crate::plot::{Bar, BarFigure, BarPanel, LineFigure, LinePanel, Segment, Series};
use crate::results::Results;
use crate::statistics::median;

const B: &str = "b";

/// Names and documents.
pub(super) fn all(results: Results<'_>, kind: Kind) -> Vec<(String, String)> {
    let named = |name: &str, svg: String| (name.to_owned(), svg);
    match kind {
        Kind::Modes => {
            let shown = [
                Mode::Warm,
                Mode::Cached,
                Mode::FaaSnap,
                Mode::FaaSnapCached,
                Mode::Reap,
                Mode::OnDemandRandom,
                Mode::OnDemand128K,
                Mode::OnDemand,
                Mode::Eager,
                Mode::Cold,
                Mode::Process,
                Mode::ForkServer,
            ];
            vec![
                named(
                    "totals",
                    totals(results, &shown, "From request to answer, input B, files cold unless said"),
                ),
                named("phases", phases(results)),
                named("faults", faults(results)),
            ]
        }
        Kind::SlowDisk => {
            let title = "From request to answer on a disk of 125 MiB/s and 3,000 reads a second, input B";
            vec![named("slow-disk", totals(results, &slow_disk::MODES, title))]
        }
        Kind::Inputs => vec![named("inputs", input_sizes(results))],
        Kind::Burst => vec![named("burst", bursts(results))],
        Kind::Ablation => vec![named("ablation", without(results))],
    }
}

/// One colour for a mode in every figure; a palette that colour-blind readers can tell apart, with shades for variants.
fn colour(mode: Mode) -> String {
    match mode {
        Mode::Warm => "#444444",
        Mode::Cached => "#999999",
        Mode::FaaSnap => "#0072b2",
        Mode::FaaSnapCached => "#56b4e9",
        Mode::FaaSnapNewWorker => "#a6d4f2",
        Mode::Reap => "#d55e00",
        Mode::OnDemandRandom => "#009e73",
        Mode::OnDemand128K => "#66c5ab",
        Mode::OnDemand => "#b2e2d5",
        Mode::Recorded => "#117733",
        Mode::Eager => "#cc79a7",
        Mode::Cold => "#e69f00",
        Mode::Process => "#8c6d31",
        Mode::ForkServer => "#f0e442",
    }
    .to_owned()
}

fn legend(modes: &[Mode]) -> Vec<(String, String)> {
    modes.iter().map(|mode| (mode.to_string(), colour(*mode))).collect()
}

fn totals(results: Results<'_>, modes: &[Mode], title: &str) -> String {
    let panel = |function: &str| {
        let bar = |mode: &Mode| {
            let total = results.interval(function, mode.name(), B)?;
            Some(Bar {
                label: String::new(),
                segments: vec![Segment { value: total.value, colour: colour(*mode) }],
                interval: Some((total.low, total.high)),
            })
        };
        BarPanel {
            title: function.to_owned(),
            bars: modes.iter().filter_map(bar).collect(),
            line: results.total(function, Mode::Warm, B),
        }
    };
    BarFigure {
        title: title.to_owned(),
        unit: "milliseconds; medians with 95% intervals; dashed: warm".to_owned(),
        panels: results.functions().into_iter().map(panel).collect(),
        legend: legend(modes),
        columns: 4,
        label_room: 0.0,
    }
    .svg()
}

/// Groups of phases that a reader can tell apart, with their colours.
const PHASES: [(&str, &str, &[Phase]); 5] = [
    ("worker and request", "#444444", &[Phase::WorkerReady, Phase::Sent, Phase::Received]),
    (
        "virtual machine and state",
        "#999999",
        &[Phase::VmCreated, Phase::VcpusCreated, Phase::SlotsSet, Phase::StateRestored],
    ),
    ("snapshot opened, planned", "#56b4e9", &[Phase::SnapshotOpened, Phase::Planned]),
    ("memory mapped", "#009e73", &[Phase::Mapped]),
    ("memory read before running", "#d55e00", &[Phase::Prefetched, Phase::MadeResident]),
];
/// Running, cut in two: as long as a warm instance would, and longer.
const RUNNING: [(&str, &str); 2] =
    [("running longer than warm", "#0072b2"), ("running as long as warm", "#d9d9d9")];

/// Milliseconds of the phases of one group. Where a phase overlaps those before it, what it adds to them; what goes on beside
/// the guest and the first exit add nothing.
fn phase_ms(timeline: &Timeline, phases: &[Phase]) -> f64 {
    let (mut end, mut took) = (0, 0);
    for record in &timeline.phases {
        if record.phase.is_beside() || record.phase == Phase::FirstExit {
            continue;
        }
        if phases.contains(&record.phase) {
            took += record.end_ns.saturating_sub(record.start_ns.max(end));
        }
        end = end.max(record.end_ns);
    }
    took as f64 / 1e6
}

fn phases(results: Results<'_>) -> String {
    let modes = [Mode::Cached, Mode::FaaSnap, Mode::Reap, Mode::OnDemandRandom];
    let panel = |function: &str| {
        let bar = |mode: &Mode| {
            let mut segments: Vec<Segment> = PHASES
                .iter()
                .filter_map(|(_, colour, group)| {
                    let value = results
                        .median_of(function, mode.name(), B, |timeline| Some(phase_ms(timeline, group)))?;
                    Some(Segment { value, colour: (*colour).to_owned() })
                })
                .collect();
            let ran = results
                .median_of(function, mode.name(), B, |timeline| Some(phase_ms(timeline, &[Phase::Answered])));
            let warm = results.total(function, Mode::Warm, B).unwrap_or(0.0);
            if let Some(ran) = ran {
                let values = [(ran - warm).max(0.0), ran.min(warm)];
                segments.extend(
                    RUNNING
                        .iter()
                        .zip(values)
                        .map(|((_, colour), value)| Segment { value, colour: (*colour).to_owned() }),
                );
            }
            (!segments.is_empty()).then(|| Bar { label: mode.to_string(), segments, interval: None })
        };
        BarPanel {
            title: function.to_owned(),
            bars: modes.iter().filter_map(bar).collect(),
            line: results.total(function, Mode::Warm, B),
        }
    };
    BarFigure {
        title: "What the time goes into, input B".to_owned(),
        unit: "milliseconds, medians of each part; dashed: warm".to_owned(),
        panels: results.functions().into_iter().map(panel).collect(),
        legend: PHASES
            .iter()
            .map(|(name, colour, _)| (*name, *colour))
            .chain(RUNNING)
            .map(|(name, colour)| (name.to_owned(), colour.to_owned()))
            .collect(),
        columns: 4,
        label_room: 88.0,
    }
    .svg()
}

fn faults(results: Results<'_>) -> String {
    let modes =
        [Mode::Cached, Mode::FaaSnap, Mode::Reap, Mode::OnDemandRandom, Mode::OnDemand128K, Mode::OnDemand];
    let kinds: [(&str, &str, fn(&Timeline) -> u64); 3] = [
        ("minor", "#56b4e9", |timeline| timeline.faults.minor),
        ("major", "#d55e00", |timeline| timeline.faults.major),
        ("userfault", "#e69f00", |timeline| timeline.faults.userfault),
    ];
    let panel = |function: &str| {
        let bar = |mode: &Mode| {
            let segments: Vec<Segment> = kinds
                .iter()
                .filter_map(|(_, colour, count)| {
                    let value = results
                        .median_of(function, mode.name(), B, |timeline| Some(count(timeline) as f64))?;
                    Some(Segment { value, colour: (*colour).to_owned() })
                })
                .collect();
            (!segments.is_empty()).then(|| Bar { label: mode.to_string(), segments, interval: None })
        };
        BarPanel { title: function.to_owned(), bars: modes.iter().filter_map(bar).collect(), line: None }
    };
    BarFigure {
        title: "Faults of the instance's process, input B".to_owned(),
        unit: "faults, medians".to_owned(),
        panels: results.functions().into_iter().map(panel).collect(),
        legend: kinds.iter().map(|(name, colour, _)| ((*name).to_owned(), (*colour).to_owned())).collect(),
        columns: 4,
        label_room: 92.0,
    }
    .svg()
}

fn input_sizes(results: Results<'_>) -> String {
    let panel = |function: &str| LinePanel {
        title: function.to_owned(),
        series: inputs::MODES
            .iter()
            .map(|mode| Series {
                colour: colour(*mode),
                points: inputs::LABELS
                    .iter()
                    .filter_map(|label| {
                        Some((
                            label.trim_end_matches('x').parse().ok()?,
                            results.total(function, *mode, label)?,
                        ))
                    })
                    .collect(),
            })
            .collect(),
    };
    LineFigure {
        title: "Inputs of another size than the recorded one".to_owned(),
        across: "size of the input, the recorded one being 1".to_owned(),
        up: "milliseconds from request to answer, medians".to_owned(),
        panels: results.functions().into_iter().map(panel).collect(),
        legend: legend(&inputs::MODES),
        columns: 4,
        logarithmic: (true, true),
    }
    .svg()
}

fn bursts(results: Results<'_>) -> String {
    let panel = |function: &str, snapshots: Snapshots| LinePanel {
        title: match snapshots {
            Snapshots::Same => format!("{function}, one snapshot"),
            Snapshots::Different => format!("{function}, a snapshot each"),
        },
        series: burst::MODES
            .iter()
            .map(|mode| Series {
                colour: colour(*mode),
                points: burst::SIZES
                    .iter()
                    .filter_map(|size| {
                        let times = results.burst(function, &burst::name(*mode, snapshots, *size));
                        Some((*size as f64, median(&times)?))
                    })
                    .collect(),
            })
            .collect(),
    };
    let functions = results.functions();
    let panels =
        functions.iter().flat_map(|function| Snapshots::ALL.map(|snapshots| panel(function, snapshots)));
    LineFigure {
        title: "Requests at once".to_owned(),
        across: "requests at once".to_owned(),
        up: "milliseconds until the last one is answered, medians".to_owned(),
        panels: panels.collect(),
        legend: legend(&burst::MODES),
        columns: 2,
        logarithmic: (true, true),
    }
    .svg()
}

fn without(results: Results<'_>) -> String {
    let names: Vec<String> =
        std::iter::once(Mode::FaaSnap.name().to_owned()).chain(Technique::ALL.map(ablation::name)).collect();
    let panel = |function: &str| {
        let warm = results.total(function, Mode::Warm, B).unwrap_or(0.0);
        let bar = |name: &String| {
            let total = results.interval(function, name, B)?;
            let above = |value: f64| (value - warm).max(0.0);
            let whole = name == Mode::FaaSnap.name();
            Some(Bar {
                label: name.trim_start_matches("without ").to_owned(),
                segments: vec![Segment {
                    value: above(total.value),
                    colour: if whole { colour(Mode::FaaSnap) } else { "#bbbbbb".to_owned() },
                }],
                interval: Some((above(total.low), above(total.high))),
            })
        };
        BarPanel {
            title: function.to_owned(),
            bars: names.iter().filter_map(bar).collect(),
            line: median(&results.totals(function, Mode::FaaSnap.name(), B))
                .map(|total| (total - warm).max(0.0)),
        }
    };
    BarFigure {
        title: "FaaSnap without each of its techniques, input B".to_owned(),
        unit: "milliseconds above warm; medians with 95% intervals".to_owned(),
        panels: results.functions().into_iter().map(panel).collect(),
        legend: vec![
            ("faasnap with all techniques".to_owned(), colour(Mode::FaaSnap)),
            ("without the one named".to_owned(), "#bbbbbb".to_owned()),
        ],
        columns: 4,
        label_room: 100.0,
    }
    .svg()
}
