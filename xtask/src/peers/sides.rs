//! The two sides of a comparison, as processes.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::results::{Outcome, Round, read_results};
use super::rows::Row;
use super::{Places, results_file};
use crate::shell::describe;

/// A side of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Python's open_clip.
    Peer,
    /// The program.
    Here,
}

impl Side {
    pub(super) fn name(self) -> &'static str {
        if self == Side::Peer { "peer" } else { "here" }
    }
}

/// Returns the order of the sides in a round; it alternates between rounds.
pub(super) fn alternating(round: usize) -> [Side; 2] {
    if round.is_multiple_of(2) { [Side::Peer, Side::Here] } else { [Side::Here, Side::Peer] }
}

/// A process that has prepared the work of a side and measures rounds on request. Dropping it ends the process.
pub(super) struct Worker {
    child: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// The results that both sides compare.
    pub results: Vec<f32>,
}

impl Worker {
    /// Starts a process that answers as `benches/peers/worker.py` describes, and waits until it is ready.
    fn start(command: &mut Command, results: &Path) -> Result<Self> {
        let line = describe(command);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{line}`"))?;
        let requests = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("a process without output")?);
        let mut worker = Worker { child, requests, answers, results: Vec::new() };
        let ready = worker.answer().with_context(|| format!("`{line}` failed"))?;
        if ready["ready"] != true {
            bail!("`{line}` answered `{ready}`");
        }
        worker.results = read_results(results)?;
        Ok(worker)
    }

    /// Measures a round.
    pub(super) fn round(&mut self) -> Result<Round> {
        let requests = self.requests.as_mut().context("the process was ended")?;
        requests.write_all(b"round\n").and_then(|()| requests.flush()).context("the process ended")?;
        let answer = self.answer()?;
        let number = |key: &str| answer[key].as_f64().with_context(|| format!("no `{key}` in `{answer}`"));
        Ok(Round { seconds: number("seconds")?, items: number("items")?, memory: answer["memory"].as_f64() })
    }

    /// Reads the next line of the process.
    fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.answers.read_line(&mut line).context("cannot read an answer")? == 0 {
            bail!("the process ended ({})", self.child.wait().context("cannot wait for it")?);
        }
        serde_json::from_str(&line).with_context(|| format!("`{}` is not JSON", line.trim_end()))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Closing its input ends the process only after the current round.
        self.requests = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts both sides of a row, the peer first.
pub(super) fn start(places: &Places, row: &Row, case: &Path, threads: usize) -> Result<[Worker; 2]> {
    let threads = row.threads(threads);
    let start = |side: Side| {
        let results = results_file(places, row, side);
        let mut command = match side {
            Side::Peer => places.script("worker.py"),
            Side::Here => program(places, &["bench", "--rounds"]),
        };
        Worker::start(limited(command.arg(case).arg(&results), threads), &results)
            .with_context(|| format!("the side `{}` failed", side.name()))
    };
    Ok([start(Side::Peer)?, start(Side::Here)?])
}

/// Measures zero-shot evaluations as whole commands, and compares their accuracies.
pub(super) fn commands(row: &Row, places: &Places, threads: usize, rounds: usize) -> Result<Outcome> {
    let (model, images) = (places.inputs.join("zero-shot/model"), places.inputs.join("zero-shot/images"));
    let mut outcome = Outcome::new(row);
    for round in 0..rounds {
        let mut accuracies = [0.0; 2];
        for side in alternating(round) {
            let mut command = match side {
                Side::Peer => {
                    let mut script = places.script("zero_shot.py");
                    script.arg(&model).arg(&images).arg(threads.to_string());
                    script
                }
                Side::Here => {
                    let mut evaluate = program(places, &["evaluate"]);
                    evaluate.arg(&model).arg("--data").arg(&images).args(["--prompts", "plain", "--json"]);
                    evaluate
                }
            };
            let line = describe(&command);
            let start = Instant::now();
            let output = limited(&mut command, threads)
                .stderr(Stdio::piped())
                .output()
                .with_context(|| format!("cannot start `{line}`"))?;
            let seconds = start.elapsed().as_secs_f64();
            if !output.status.success() {
                bail!("`{line}` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
            }
            let found = serde_json::from_slice::<Value>(&output.stdout).context("the result is not JSON")?;
            accuracies[side as usize] =
                accuracy(&found).with_context(|| format!("`{line}` reports no top-1 accuracy: {found}"))?;
            outcome.add(side, &Round { seconds, items: 1.0, memory: None });
        }
        let [peer, here] = accuracies.map(|accuracy| [accuracy as f32]);
        outcome.compare(&peer, &here)?;
    }
    Ok(outcome)
}

/// Returns the top-1 accuracy (0 to 1) in the output of either side.
fn accuracy(found: &Value) -> Option<f64> {
    found["top1"].as_f64().or_else(|| found["sets"][0]["top1"].as_f64())
}

fn program(places: &Places, args: &[&str]) -> Command {
    let mut command = Command::new(&places.program);
    command.args(args).env_remove(crate::program::SEARCH_PATH);
    command
}

/// Limits the threads of OpenMP, MKL and rayon in a process.
fn limited(command: &mut Command, threads: usize) -> &mut Command {
    let variables = ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"];
    command.envs(variables.map(|name| (name, threads.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker that writes one result, 1.0, and answers with the number of its round as seconds.
    const WORKER: &str = r#"
printf '\000\000\200\077' > "$1"
echo '{"ready": true}'
i=0
while read -r line; do
  i=$((i + 1))
  [ $i = 3 ] && exit 7
  echo "{\"seconds\": $i, \"items\": 4, \"memory\": null}"
done
"#;

    #[test]
    fn a_worker_answers_requests_until_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let results = folder.path().join("results");
        let mut command = Command::new("sh");
        command.args(["-c", WORKER, "worker"]).arg(&results);
        let mut worker = Worker::start(&mut command, &results).unwrap();
        assert_eq!(worker.results, [1.0]);
        for seconds in [1.0, 2.0] {
            assert_eq!(worker.round().unwrap(), Round { seconds, items: 4.0, memory: None });
        }
        let error = format!("{:#}", worker.round().unwrap_err());
        assert!(error.contains("ended") && error.contains('7'), "{error}");
    }

    #[test]
    fn a_process_that_is_not_a_worker_is_an_error() {
        for script in ["exit 3", "echo '{}'", "echo ready"] {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            assert!(Worker::start(&mut command, Path::new("nowhere")).is_err(), "{script}");
        }
    }

    #[test]
    fn both_sides_report_an_accuracy() {
        let of = |text: &str| accuracy(&serde_json::from_str(text).unwrap());
        assert_eq!(of(r#"{"top1": 0.5, "images": 4}"#), Some(0.5));
        assert_eq!(of(r#"{"model": "m", "sets": [{"set": "s", "top1": 0.25}]}"#), Some(0.25));
        assert_eq!(of(r#"{"sets": []}"#), None);
    }

    #[test]
    fn the_order_of_the_sides_alternates() {
        assert_eq!([0, 1].map(|round| alternating(round)[0]), [Side::Peer, Side::Here]);
    }
}
