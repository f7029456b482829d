//! `tepui explain`: why a framework, or the task that waits in it, is offered nothing.

use std::fmt::Write;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value;

use crate::client::{self, Client, MasterAddress};
use crate::table;

#[derive(Args, Debug)]
pub(crate) struct Explain {
    #[command(flatten)]
    master: MasterAddress,
    /// A framework's id or name, or a task's id or name
    #[arg(required_unless_present = "role")]
    what: Option<String>,
    /// All frameworks of a role and of those beneath it
    #[arg(long, conflicts_with = "what")]
    role: Option<String>,
    /// Name every agent, offer and refusal instead of a few
    #[arg(long)]
    agents: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Explain {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        client::block_on(async {
            let client = Client::new(&self.master)?;
            let about = match (&self.role, &self.what) {
                (Some(role), _) => ("role", role.clone()),
                (None, Some(what)) => {
                    let state = client.operator("GET_STATE").await?;
                    let found = find(&state["get_state"], what)?;
                    if let (Some(task), false) = (&found.task, self.json) {
                        println!("{}", tepui_model::plain(task));
                    }
                    ("framework", found.framework)
                }
                (None, None) => bail!("name a framework or a task, or a role with --role"),
            };
            let mut query = vec![(about.0, about.1.as_str())];
            query.extend(self.agents.then_some(("agents", "all")));
            let response = client.get("/api/v1/tepui/explain", &query).await?;
            let answer: Value = response
                .json()
                .await
                .context("the master's explanation is not JSON")?;
            if self.json {
                table::json(&answer);
            } else {
                table::end_with_the_reader();
                print!("{}", tepui_model::plain_lines(&told(&answer)));
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}

/// Why a framework is offered nothing, in a line.
pub(crate) async fn in_short(client: &Client, framework: &str) -> anyhow::Result<String> {
    let query = [("framework", framework), ("agents", "1")];
    let response = client.get("/api/v1/tepui/explain", &query).await?;
    Ok(shortened(&response.json().await?))
}

fn shortened(answer: &Value) -> String {
    let frameworks = client::items(&answer["frameworks"]);
    let roles = frameworks.flat_map(|framework| client::items(&framework["roles"]));
    let reasons = roles.flat_map(|role| client::items(&role["agents"]));
    let reasons: Vec<String> = reasons
        .map(|reason| {
            let mut words = format!("{} agents: ", reason["count"]);
            words += client::text(reason, &["text"]);
            if let Some(nearest) = client::items(&reason["examples"]).next()
                && let Some(detail) = nearest["detail"].as_str()
            {
                words += &format!(" ({}: {detail})", client::text(nearest, &["hostname"]));
            }
            words
        })
        .collect();
    if reasons.is_empty() {
        "there are no agents".to_owned()
    } else {
        reasons.join("; ")
    }
}

/// What a word stands for.
#[derive(Debug, PartialEq)]
struct Found {
    /// Its id.
    framework: String,
    /// A line about the task, if it was a task that was named.
    task: Option<String>,
}

fn find(state: &Value, what: &str) -> anyhow::Result<Found> {
    let tasks = ["tasks", "unreachable_tasks", "completed_tasks"];
    let mut tasks = tasks
        .into_iter()
        .flat_map(|list| client::items(&state["get_tasks"][list]));
    let frameworks = || {
        let frameworks = client::items(&state["get_frameworks"]["frameworks"]);
        frameworks.map(|framework| &framework["framework_info"])
    };
    if frameworks().any(|info| client::text(info, &["id", "value"]) == what) {
        return Ok(Found {
            framework: what.to_owned(),
            task: None,
        });
    }
    let task = tasks.find(|task| {
        client::text(task, &["task_id", "value"]) == what || client::text(task, &["name"]) == what
    });
    // `tepui run` calls its framework after its task, whose id has something random at the end; one that still waits is known by
    // its framework only.
    let stem = what.rsplit_once('-').map_or(what, |(stem, _)| stem);
    let guess = task.is_none().then(|| format!("run {stem}"));
    for name in [what.to_owned(), format!("run {what}")]
        .into_iter()
        .chain(guess)
    {
        let named = frameworks().filter(|info| client::text(info, &["name"]) == name);
        let ids: Vec<&str> = named
            .map(|info| client::text(info, &["id", "value"]))
            .collect();
        match ids.as_slice() {
            [] => {}
            [id] => {
                return Ok(Found {
                    framework: (*id).to_owned(),
                    task: None,
                });
            }
            several => bail!(
                "several frameworks are called '{name}'; name one by its id: {}",
                several.join(", ")
            ),
        }
    }
    let Some(task) = task else {
        bail!(
            "nothing is called '{what}': no framework or task that the master knows of; see `tepui ps --all`"
        );
    };
    Ok(Found {
        framework: client::text(task, &["framework_id", "value"]).to_owned(),
        task: Some(format!(
            "task {} is {} on agent {}",
            client::text(task, &["task_id", "value"]),
            client::text(task, &["state"]),
            client::text(task, &["agent_id", "value"]),
        )),
    })
}

fn told(answer: &Value) -> String {
    let mut text = String::new();
    if let Some(role) = answer["role"].as_str() {
        line(&mut text, 0, format!("role {role}"));
        path(&mut text, &answer["path"]);
    }
    for one in client::items(&answer["frameworks"]) {
        framework(&mut text, one);
    }
    if client::items(&answer["frameworks"]).next().is_none() {
        line(&mut text, 0, "no framework is in it".to_owned());
    }
    if let Some(omitted) = answer["omitted"].as_u64() {
        line(&mut text, 0, format!("and {omitted} more"));
    }
    text
}

fn line(text: &mut String, level: usize, words: String) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{:indent$}{words}", "", indent = 2 * level);
}

fn framework(text: &mut String, one: &Value) {
    let word = |name: &str| client::text(one, &[name]);
    let mut head = format!("framework '{}' ({})", word("name"), word("id"));
    if one["connected"] != Value::Bool(true) {
        head += ", whose scheduler is away";
    } else if one["active"] != Value::Bool(true) {
        head += ", which is not active";
    }
    line(text, 0, head);
    let mut share = format!("share {}", percent(&one["share"]));
    if let Some(name) = one["dominant_resource"].as_str() {
        share += &format!(" of {name}");
    }
    share += &format!(", fair share {}", percent(&one["fair_share"]));
    if let Some(waited) = one["unoffered_secs"].as_f64() {
        share += &format!("; it has asked for {waited:.1} s and was offered nothing");
    }
    line(text, 1, share);
    for role in client::items(&one["roles"]) {
        in_role(text, role);
    }
    let offers = &one["offers"];
    if offers["count"].as_u64().unwrap_or(0) > 0 {
        line(text, 1, format!("open offers: {}", offers["count"]));
        for offer in client::items(&offers["examples"]) {
            let word = |name: &str| client::text(offer, &[name]);
            let words = format!(
                "{} as {}: {}, for {:.1} s",
                word("hostname"),
                word("role"),
                word("resources"),
                offer["age_secs"].as_f64().unwrap_or(0.0)
            );
            line(text, 2, words);
        }
    }
    let refusals = &one["refusals"];
    if refusals["agents"].as_u64().unwrap_or(0) > 0 {
        line(
            text,
            1,
            format!(
                "agents on which it refuses something: {}",
                refusals["agents"]
            ),
        );
        for refusal in client::items(&refusals["examples"]) {
            let word = |name: &str| client::text(refusal, &[name]);
            let words = format!(
                "{} as {}: {}, for another {:.1} s",
                word("hostname"),
                word("role"),
                word("resources"),
                refusal["secs_left"].as_f64().unwrap_or(0.0)
            );
            line(text, 2, words);
        }
    }
}

fn in_role(text: &mut String, role: &Value) {
    let name = client::text(role, &["role"]);
    let how = if role["asking"] == Value::Bool(true) {
        format!("fair share {}", percent(&role["fair_share"]))
    } else if role["suppressed"] == Value::Bool(true) {
        "suppressed".to_owned()
    } else {
        "asks for nothing".to_owned()
    };
    line(
        text,
        1,
        format!("in role {name}: share {}, {how}", percent(&role["share"])),
    );
    path(text, &role["path"]);
    if role["room_hidden"] == Value::Bool(true) {
        line(
            text,
            2,
            "may be given now: hidden, since it comes of quotas you may not see (get_quotas)"
                .to_owned(),
        );
    } else if role["room"].is_object() {
        line(
            text,
            2,
            format!("may be given now: {}", amounts(&role["room"])),
        );
    }
    let reasons: Vec<&Value> = client::items(&role["agents"]).collect();
    if reasons.is_empty() {
        line(text, 2, "there are no agents".to_owned());
    }
    for reason in reasons {
        let words = format!(
            "agents: {}, {}",
            reason["count"],
            client::text(reason, &["text"])
        );
        line(text, 2, words);
        for example in client::items(&reason["examples"]) {
            let detail = client::text(example, &["detail"]);
            let separator = if detail.is_empty() { "" } else { ": " };
            let host = client::text(example, &["hostname"]);
            let id = client::text(example, &["agent_id"]);
            line(text, 3, format!("{host} ({id}){separator}{detail}"));
        }
    }
}

fn path(text: &mut String, path: &Value) {
    for level in client::items(path) {
        let mut words = format!(
            "role {}: weight {}, share {}",
            client::text(level, &["role"]),
            level["weight"],
            percent(&level["share"])
        );
        let quota = &level["quota"];
        if quota.is_object() {
            words += &format!("; consumed {}", amounts(&quota["consumed"]));
            for (what, name) in [("limits", "limit"), ("guarantees", "guaranteed")] {
                if quota[what].as_object().is_some_and(|some| !some.is_empty()) {
                    words += &format!(", {name} {}", amounts(&quota[what]));
                }
            }
        }
        line(text, 2, words);
    }
}

fn percent(share: &Value) -> String {
    format!("{:.1}%", share.as_f64().unwrap_or(0.0) * 100.0)
}

fn amounts(amounts: &Value) -> String {
    let amounts: Vec<String> = amounts
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, amount)| format!("{name} {amount}"))
        .collect();
    if amounts.is_empty() {
        "nothing".to_owned()
    } else {
        amounts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::{Found, find, shortened, told};
    use serde_json::json;

    #[test]
    fn frameworks_and_tasks_are_found_by_what_people_call_them() {
        let info = |id: &str, name: &str| json!({ "framework_info": { "id": { "value": id }, "name": name } });
        let state = json!({
            "get_frameworks": { "frameworks": [
                info("f1", "web"), info("f2", "run hello"), info("f3", "twin"), info("f4", "twin"),
            ]},
            "get_tasks": { "tasks": [
                { "task_id": { "value": "t-1" }, "name": "front", "framework_id": { "value": "f1" },
                  "agent_id": { "value": "a1" }, "state": "TASK_RUNNING" },
            ]},
        });
        let framework = |id: &str| Found {
            framework: id.to_owned(),
            task: None,
        };
        for (what, id) in [
            ("f1", "f1"),
            ("web", "f1"),
            ("hello", "f2"),
            ("run hello", "f2"),
            ("hello-0123abcd", "f2"),
        ] {
            assert_eq!(find(&state, what).unwrap(), framework(id), "{what}");
        }
        let task = find(&state, "front").unwrap();
        assert_eq!(task.framework, "f1");
        assert_eq!(
            task.task.as_deref(),
            Some("task t-1 is TASK_RUNNING on agent a1")
        );
        let twin = find(&state, "twin").unwrap_err().to_string();
        assert!(twin.contains("f3, f4"), "{twin}");
        let none = find(&state, "none").unwrap_err().to_string();
        assert!(none.contains("tepui ps"), "{none}");
    }

    #[test]
    fn what_is_hidden_is_said_to_be() {
        let answer = json!({ "frameworks": [{ "id": "f1", "name": "web", "roles": [{
            "role": "eng", "room": null, "room_hidden": true, "path": [], "agents": [],
        }]}]});
        let text = told(&answer);
        assert!(text.contains("may be given now: hidden"), "{text}");
    }

    #[test]
    fn an_explanation_is_told_in_lines() {
        let answer = json!({ "frameworks": [{
            "id": "f1", "name": "web", "connected": true, "active": true,
            "share": 0.25, "dominant_resource": "mem", "fair_share": 0.5, "unoffered_secs": 12.34,
            "offers": { "count": 0, "examples": [] },
            "refusals": { "agents": 1, "examples": [
                { "hostname": "h1", "role": "eng/web", "resources": "cpus:1", "secs_left": 4.0 },
            ]},
            "roles": [{
                "role": "eng/web", "asking": true, "suppressed": false, "share": 0.25, "fair_share": 0.5,
                "room": {}, "path": [{ "role": "eng", "weight": 2.0, "share": 0.25, "quota": {
                    "consumed": { "cpus": 4.0 }, "limits": { "cpus": 4.0 }, "guarantees": {},
                }}],
                "agents": [{ "reason": "TOO_LITTLE", "text": "less is free", "count": 2,
                             "examples": [{ "hostname": "h2", "agent_id": "a2", "detail": "lacks cpus:1" }] }],
            }],
        }]});
        assert_eq!(
            told(&answer),
            "framework 'web' (f1)\n  \
             share 25.0% of mem, fair share 50.0%; it has asked for 12.3 s and was offered nothing\n  \
             in role eng/web: share 25.0%, fair share 50.0%\n    \
             role eng: weight 2.0, share 25.0%; consumed cpus 4.0, limit cpus 4.0\n    \
             may be given now: nothing\n    \
             agents: 2, less is free\n      \
             h2 (a2): lacks cpus:1\n  \
             agents on which it refuses something: 1\n    \
             h1 as eng/web: cpus:1, for another 4.0 s\n"
        );
        assert_eq!(
            shortened(&answer),
            "2 agents: less is free (h2: lacks cpus:1)"
        );
        assert_eq!(shortened(&json!({})), "there are no agents");
    }
}
