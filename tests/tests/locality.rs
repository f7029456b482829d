//! Tasks run where their bytes are: what agents tell they hold.
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

use serde_json::Value;
use tepui_tests::{Cluster, guest, wait_until};

/// What is held of one kind, by agent.
fn held(cluster: &Cluster, query: &str, kind: &str) -> Vec<Value> {
    let answer = cluster.get(&format!("/api/v1/tepui/holdings{query}"));
    assert_eq!(answer.status, 200);
    let answer: Value = serde_json::from_slice(&answer.body).unwrap();
    let held = answer["holdings"].as_array().unwrap().iter();
    held.filter(|one| one["kind"] == kind).cloned().collect()
}

#[test]
fn the_master_knows_what_agents_have_fetched_and_compiled() {
    let cluster = Cluster::start(2);
    assert!(held(&cluster, "", "ARTIFACT").is_empty());
    let module = cluster.folder.path().join("nothing.wat");
    std::fs::write(&module, "(module (func (export \"_start\")))").unwrap();
    let module = module.display().to_string();
    let artifact = cluster.json(&["artifact", "put", "--json", &module]);
    let sha256 = artifact["sha256"].as_str().unwrap();
    let ended = cluster.tepui(&["run", &module]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let query = format!("?sha256={sha256}");
    let (artifact, compiled) = wait_until("the agent to tell what it holds", || {
        let artifact = held(&cluster, &query, "ARTIFACT").pop()?;
        Some((artifact, held(&cluster, &query, "COMPILED").pop()?))
    });
    assert_eq!(artifact["bytes"], 33);
    assert_eq!(artifact["agent_id"], compiled["agent_id"]);
    assert!(compiled["bytes"].as_u64().unwrap() > 33);

    let agents = cluster.operator(serde_json::json!({ "type": "GET_AGENTS" }));
    let agents: Value = serde_json::from_slice(&agents.body).unwrap();
    let holdings = agents["get_agents"]["agents"].as_array().unwrap().iter();
    let holdings = holdings.flat_map(|agent| agent["holdings"].as_array().into_iter().flatten());
    assert_eq!(holdings.filter(|held| held["name"] == sha256).count(), 2);
    let slaves = cluster.get("/slaves");
    let slaves: Value = serde_json::from_slice(&slaves.body).unwrap();
    let counts = slaves["slaves"].as_array().unwrap().iter();
    let counts = counts.map(|one| &one["tepui_holdings"]["sums"]["ARTIFACT"]["count"]);
    assert_eq!(counts.filter(|count| **count == 1).count(), 1);
}

/// An agent with these data sets, after the master has heard of them.
fn add_agent(cluster: &mut Cluster, name: &str, datasets: &[String]) {
    let mut flags = vec![
        "--hostname",
        name,
        "--resources",
        "cpus:2;mem:1024;disk:1024;ports:[31000-31999]",
    ];
    for dataset in datasets {
        flags.extend(["--dataset", dataset]);
    }
    cluster.add_agent(&flags);
    cluster.wait_for_agents(cluster.agents.len());
    wait_until("the data sets to be counted", || {
        let held = held(cluster, "", "DATASET");
        let own = held.iter().filter(|one| one["hostname"] == name);
        (own.filter(|one| !one["bytes"].is_null()).count() == datasets.len()).then_some(())
    });
}

/// A folder with a data set in it: two files, and a link out of it.
fn make_dataset(cluster: &Cluster) -> String {
    let folder = cluster.folder.path().join("words");
    std::fs::create_dir_all(folder.join("deep")).unwrap();
    std::fs::write(folder.join("one.txt"), "one and only").unwrap();
    std::fs::write(folder.join("deep/two.txt"), "two").unwrap();
    std::fs::write(cluster.folder.path().join("secret"), "nobody's business").unwrap();
    std::os::unix::fs::symlink("../secret", folder.join("way-out")).unwrap();
    folder.display().to_string()
}

#[test]
fn a_wasm_task_reads_a_data_set_and_cannot_leave_or_change_it() {
    let mut cluster = Cluster::master_alone(&[]);
    let folder = make_dataset(&cluster);
    let file = cluster.folder.path().join("secret").display().to_string();
    add_agent(&mut cluster, "without", &[]);
    let sets = [format!("words={folder}"), format!("file={file}")];
    add_agent(&mut cluster, "with", &sets);
    let probe = guest("probe");
    let run = |flags: &[&str], words: &[&str]| {
        let mut all = vec!["run"];
        all.extend(flags);
        all.extend([probe.as_str(), "--"]);
        all.extend(words);
        cluster.tepui(&all)
    };
    let words = &["--dataset", "words"][..];
    for (flags, command, expected) in [
        (
            words,
            &["read", "/data/words/one.txt"][..],
            "one and only\n",
        ),
        (words, &["list", "/data/words"], "deep one.txt way-out\n"),
        (words, &["env", "TEPUI_DATASET_WORDS"], "/data/words\n"),
        (
            &["--input", "words"],
            &["read", "data/words/deep/two.txt"],
            "two\n",
        ),
        (
            &["--dataset", "words=/in"],
            &["read", "/in/one.txt"],
            "one and only\n",
        ),
        (
            &["--dataset", "file"],
            &["count", "/data/file/secret"],
            "17 bytes\n",
        ),
    ] {
        let ended = run(flags, command);
        assert_eq!(
            (ended.code, ended.stdout.as_str()),
            (0, expected),
            "{ended:?}"
        );
    }
    for command in [
        &["read", "/data/words/way-out"][..],
        &["read", "/data/words/../../../secret"],
        &["read", "/data/words/deep/../../secret"],
        &["write", "/data/words/one.txt", "changed"],
        &["write", "/data/words/new", "made"],
        &["remove", "/data/words/one.txt"],
        &["rename", "/data/words/one.txt", "/mine"],
        &["rename", "/data/words/one.txt", "/data/words/other"],
        &["write", "/data/file/secret", "changed"],
    ] {
        let flags = ["--dataset", "words", "--dataset", "file"];
        let ended = run(&flags, command);
        assert_eq!(ended.code, 1, "{command:?}: {ended:?}");
        assert!(!ended.stdout.contains("nobody"), "{ended:?}");
    }
    let read = |name: &str| std::fs::read_to_string(format!("{folder}/{name}")).unwrap();
    assert_eq!(
        (read("one.txt"), read("way-out")),
        ("one and only".into(), "nobody's business".into())
    );
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 3);
}

#[test]
fn a_native_task_reads_a_data_set_and_cannot_change_it() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: a native task is kept from writing by a mount, which takes root");
        return;
    }
    let mut cluster = Cluster::master_alone(&[]);
    let folder = make_dataset(&cluster);
    add_agent(&mut cluster, "with", &[format!("words={folder}")]);
    let run = |script: &str| {
        let words = ["run", "--dataset", "words", "--", "/bin/sh", "-c", script];
        cluster.tepui(&words)
    };
    let ended = run("cat data/words/one.txt; echo; ls \"$TEPUI_DATASET_WORDS\"");
    assert_eq!(
        ended.stdout, "one and only\ndeep\none.txt\nway-out\n",
        "{ended:?}"
    );
    for script in [
        "echo changed > data/words/one.txt",
        "touch data/words/new",
        "rm data/words/one.txt",
        "mv data/words/one.txt mine",
        "mv data/words elsewhere",
        "ln -s x data/words/link",
        "chmod 777 data/words/one.txt",
    ] {
        let ended = run(script);
        assert_ne!(ended.code, 0, "{script}: {ended:?}");
    }
    assert_eq!(
        std::fs::read_to_string(format!("{folder}/one.txt")).unwrap(),
        "one and only"
    );
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 3);
}

#[test]
fn data_sets_are_for_whom_they_are_declared_and_found_where_they_are() {
    let mut cluster = Cluster::master_alone(&[]);
    let folder = make_dataset(&cluster);
    add_agent(&mut cluster, "with", &[format!("words={folder}:eng")]);
    let probe = guest("probe");
    let mut words = vec![
        "run",
        "--role",
        "eng/web",
        "--dataset",
        "words",
        &probe,
        "--",
    ];
    words.extend(["read", "/data/words/one.txt"]);
    assert_eq!(cluster.tepui(&words).code, 0);
    words[2] = "ops";
    let ended = cluster.tepui(&words);
    assert_eq!(ended.code, 208, "{ended:?}");
    assert!(ended.stderr.contains("not for the role 'ops'"), "{ended:?}");
    let ended = cluster.tepui(&["run", "--input", "nothing", &probe]);
    assert!(
        ended.code != 0 && ended.stderr.contains("neither an artifact"),
        "{ended:?}"
    );

    // Schedulers that know nothing of data sets find them by an attribute.
    let agents = cluster.json(&["agents", "--json"]);
    let attributes = agents[0]["attributes"].as_str().unwrap();
    assert!(
        attributes.contains("tepui.dataset.words:eng"),
        "{attributes}"
    );
    let slaves = cluster.get("/state");
    let slaves: Value = serde_json::from_slice(&slaves.body).unwrap();
    let agent = &slaves["slaves"][0];
    assert_eq!(agent["attributes"]["tepui.dataset.words"], "eng");
    assert_eq!(agent["tepui_holdings"]["datasets"]["words"], 15);

    // An agent that is started again may have others.
    let more = format!("more={folder}");
    cluster.agents[0].start_again_with(&[("--dataset", &more)]);
    wait_until("the agent to tell what it has now", || {
        let held = held(&cluster, "", "DATASET");
        matches!(held.as_slice(), [one] if one["name"] == "more").then_some(())
    });
}

#[test]
fn a_run_waits_for_the_agent_that_holds_its_input_but_not_for_ever() {
    let mut cluster = Cluster::master_alone(&[]);
    add_agent(&mut cluster, "first", &[]);
    let input = cluster.folder.path().join("input");
    std::fs::write(&input, vec![b'x'; 64 << 20]).unwrap();
    let input = input.display().to_string();
    let artifact = cluster.json(&["artifact", "put", "--json", &input]);
    let sha256 = artifact["sha256"].as_str().unwrap();
    let read = |cluster: &Cluster, wait: &str| {
        let mut words = vec!["run", "--input", sha256, "--locality-wait", wait];
        words.extend(["--", "wc", "-c", "input"]);
        let ended = cluster.tepui(&words);
        assert_eq!(ended.stdout, "67108864 input\n", "{ended:?}");
    };
    let holders = |cluster: &Cluster| {
        let held = held(cluster, &format!("?sha256={sha256}"), "ARTIFACT");
        let names = held.iter().map(|one| one["hostname"].as_str().unwrap());
        names.map(str::to_owned).collect::<Vec<_>>()
    };
    read(&cluster, "3secs");
    wait_until("the agent to hold the input", || {
        (holders(&cluster) == ["first"]).then_some(())
    });

    // All of it is in use for a moment, and another comes that is free.
    let busy = cluster.spawn(&["run", "--cpus", "2", "--", "sleep", "3"]);
    cluster.running_task();
    add_agent(&mut cluster, "second", &[]);
    read(&cluster, "30secs");
    assert_eq!(holders(&cluster), ["first"], "it was worth the wait");
    assert_eq!(busy.wait().code, 0);

    let busy = cluster.spawn(&[
        "run", "--cpus", "1.9", "--input", sha256, "--", "sleep", "600",
    ]);
    cluster.running_task();
    read(&cluster, "1secs");
    wait_until("the other agent to have fetched it", || {
        (holders(&cluster) == ["first", "second"]).then_some(())
    });
    drop(busy);
}
