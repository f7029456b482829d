//! Data sets that tasks ask for: whether their agent has them, and whether they are for the task's role.

use tepui_api::ext::holding::Kind;
use tepui_api::v1;
use tepui_model::Role;

use crate::core::Core;
use crate::inventory::Thing;
use crate::keys::AgentKey;

/// So many of the agents that have a data set are named to whom looked for it elsewhere.
const MOST_NAMED: usize = 3;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DatasetInvalid {
    #[error("Task asks for the data set '{name}', which agent {agent} does not have; {others}")]
    Missing {
        name: String,
        agent: String,
        others: String,
    },
    #[error(
        "Task asks for the data set '{name}', which on agent {agent} is not for the role '{role}'"
    )]
    Denied {
        name: String,
        agent: String,
        role: String,
    },
    #[error("Task asks for the data set '{name}' twice")]
    Twice { name: String },
    #[error(
        "Task asks for the data set '{name}', but only tasks without an executor of the framework's own get data sets"
    )]
    Executor { name: String },
}

impl Core {
    /// Looks at what a task in this role asks for on this agent. `own_executor`: its framework brings the executor.
    pub(crate) fn check_datasets(
        &self,
        agent: AgentKey,
        role: &Role,
        task: &v1::TaskInfo,
        own_executor: bool,
    ) -> Result<(), DatasetInvalid> {
        let record = &self.agents[agent];
        for (at, asked) in task.datasets.iter().enumerate() {
            let name = || asked.name.clone();
            if own_executor {
                return Err(DatasetInvalid::Executor { name: name() });
            }
            if task.datasets[..at].iter().any(|one| one.name == asked.name) {
                return Err(DatasetInvalid::Twice { name: name() });
            }
            if record.inventory.get(Kind::Dataset, &asked.name).is_none() {
                return Err(DatasetInvalid::Missing {
                    name: name(),
                    agent: record.id.to_string(),
                    others: self.agents_with(&asked.name),
                });
            }
            let thing = Thing::new(Kind::Dataset, &asked.name);
            if !self.may_use(agent, &thing, std::slice::from_ref(role)) {
                return Err(DatasetInvalid::Denied {
                    name: name(),
                    agent: record.id.to_string(),
                    role: role.to_string(),
                });
            }
        }
        Ok(())
    }

    /// A sentence's end about who has the data set.
    fn agents_with(&self, name: &str) -> String {
        let holders = self.holders.get(&Thing::new(Kind::Dataset, name));
        let holders = holders.into_iter().flatten();
        let agents: Vec<_> = holders
            .map(|(agent, _)| &self.agents[*agent])
            .filter(|agent| agent.connected)
            .collect();
        if agents.is_empty() {
            return "no agent has it".to_owned();
        }
        let named = agents.iter().take(MOST_NAMED);
        let named: Vec<String> = named
            .map(|agent| format!("{} ({})", agent.info.hostname, agent.id))
            .collect();
        let more = match agents.len().saturating_sub(MOST_NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!("it is on {}{more}", named.join(", "))
    }
}
