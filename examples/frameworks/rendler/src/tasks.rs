//! The two kinds of task, and how much of an offer each takes.

use tepui_api::v1;

const CPUS: f64 = 0.5;
const MEM: f64 = 64.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Crawl,
    Render,
}

/// Something to do for one page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) part: Part,
    pub(crate) page: usize,
}

/// Where the guests are.
#[derive(Debug)]
pub(crate) struct Modules {
    pub(crate) crawl: String,
    pub(crate) render: String,
}

impl Work {
    pub(crate) fn name(self) -> &'static str {
        match self.part {
            Part::Crawl => "crawl",
            Part::Render => "render",
        }
    }

    /// The file the task leaves in its sandbox.
    pub(crate) fn result(self) -> &'static str {
        match self.part {
            Part::Crawl => "links.txt",
            Part::Render => "page.png",
        }
    }

    fn task_id(self) -> String {
        format!("{}-{}", self.name(), self.page)
    }

    pub(crate) fn of_task(id: &str) -> Option<Self> {
        let (name, page) = id.split_once('-')?;
        let part = [Part::Crawl, Part::Render].into_iter().find(|part| {
            Self {
                part: *part,
                page: 0,
            }
            .name()
                == name
        })?;
        Some(Self {
            part,
            page: page.parse().ok()?,
        })
    }
}

/// How many tasks the offer has room for.
pub(crate) fn fitting(offer: &v1::Offer) -> usize {
    let held = |name: &str| -> f64 {
        let named = offer
            .resources
            .iter()
            .filter(|resource| resource.name == name);
        named
            .filter_map(|resource| resource.scalar.as_ref())
            .map(|scalar| scalar.value)
            .sum()
    };
    (held("cpus") / CPUS).min(held("mem") / MEM) as usize
}

/// A wasm task is a command whose program is a module: the agent finds out by looking at it.
pub(crate) fn task(work: Work, url: &str, modules: &Modules, agent: &v1::AgentId) -> v1::TaskInfo {
    let module = match work.part {
        Part::Crawl => &modules.crawl,
        Part::Render => &modules.render,
    };
    let fetch = |url: &str, name: &str| v1::command_info::Uri {
        value: url.to_owned(),
        output_file: Some(name.to_owned()),
        extract: Some(false),
        ..Default::default()
    };
    let program = format!("{}.wasm", work.name());
    let scalar = |name: &str, value: f64| v1::Resource {
        name: name.to_owned(),
        r#type: v1::value::Type::Scalar as i32,
        scalar: Some(v1::value::Scalar { value }),
        ..Default::default()
    };
    v1::TaskInfo {
        name: format!("{} {url}", work.name()),
        task_id: v1::TaskId {
            value: work.task_id(),
        },
        agent_id: agent.clone(),
        resources: vec![scalar("cpus", CPUS), scalar("mem", MEM)],
        command: Some(v1::CommandInfo {
            uris: vec![fetch(module, &program), fetch(url, "page.html")],
            shell: Some(false),
            value: Some(program.clone()),
            arguments: vec![program, "page.html".to_owned(), url.to_owned()],
            ..Default::default()
        }),
        ..Default::default()
    }
}
