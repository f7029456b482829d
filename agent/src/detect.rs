//! What this machine has, where the operator does not say: Mesos's rules.

use std::path::Path;

use tepui_api::convert::{ResourceFormat, attributes_to_wire, resources_to_wire};
use tepui_api::v1;
use tepui_model::{
    Milli, ParseError, Ranges, Reservation, Resource, Resources, Role, parse_attributes,
};

use crate::resources_flag::{Given, ResourcesError, read_resources};

/// What is left to the system of a large enough machine, and where "large enough" begins.
const MEMORY_LEFT_MB: u64 = 1024;
const MEMORY_LARGE_MB: u64 = 2048;
const DISK_LEFT_MB: u64 = 5 * 1024;
const DISK_LARGE_MB: u64 = 10 * 1024;
/// What is assumed where nothing can be found out.
const MEMORY_UNKNOWN_MB: u64 = 1024;
const DISK_UNKNOWN_MB: u64 = 10 * 1024;
const PORTS: (u64, u64) = (31_000, 32_000);
/// By which schedulers see how well tasks are kept apart here.
pub(crate) const ISOLATION_ATTRIBUTE: &str = "tepui_isolation";
/// By which they see what wasm executors are shut in with.
pub(crate) const WALL_ATTRIBUTE: &str = "tepui_wall";

/// The resources of the flag, completed.
pub(crate) fn resources(
    flag: &str,
    default_role: &Role,
    work_dir: &Path,
) -> Result<Resources, ResourcesError> {
    let Given {
        mut resources,
        names,
    } = read_resources(flag, default_role)?;
    let whole = |amount: u64| {
        Milli(
            i64::try_from(amount)
                .unwrap_or(i64::MAX / 1000)
                .saturating_mul(1000),
        )
    };
    let own = |resource: Resource| match default_role.is_star() {
        true => resource,
        false => resource.with_reservation(Reservation::fixed(default_role.clone())),
    };
    for (name, amount) in [
        ("cpus", cpus as fn(&Path) -> u64),
        ("mem", |_| memory_mb()),
        ("disk", disk_mb),
    ] {
        if !names.contains(name) {
            resources.add_resource(own(Resource::scalar(name, whole(amount(work_dir)))));
        }
    }
    if !names.contains("ports") {
        let ports = Ranges::single(PORTS.0, PORTS.1);
        resources.add_resource(own(Resource::ranges("ports", ports)));
    }
    Ok(resources)
}

pub(crate) fn resources_wire(resources: &Resources) -> Vec<v1::Resource> {
    resources_to_wire(resources, ResourceFormat::Refined, None)
}

pub(crate) fn attributes(
    flag: &str,
    isolation: &str,
    wall: &str,
) -> Result<Vec<v1::Attribute>, ParseError> {
    let mut attributes = attributes_to_wire(&parse_attributes(flag)?);
    for (name, value) in [(ISOLATION_ATTRIBUTE, isolation), (WALL_ATTRIBUTE, wall)] {
        attributes.retain(|attribute| attribute.name != name);
        attributes.push(v1::Attribute {
            name: name.to_owned(),
            r#type: v1::value::Type::Text.into(),
            text: Some(v1::value::Text {
                value: value.to_owned(),
            }),
            ..Default::default()
        });
    }
    Ok(attributes)
}

/// Differs each time the machine starts; empty if the kernel does not say.
pub(crate) fn host_boot_id() -> String {
    let read = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    read.unwrap_or_default().trim().to_owned()
}

pub(crate) fn hostname() -> String {
    let name = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok());
    name.filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".to_owned())
}

fn cpus(_: &Path) -> u64 {
    std::thread::available_parallelism().map_or(1, |count| count.get() as u64)
}

fn memory_mb() -> u64 {
    let total = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("MemTotal:"))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        });
    total.map_or(MEMORY_UNKNOWN_MB, |kibibytes| {
        left(kibibytes >> 10, MEMORY_LEFT_MB, MEMORY_LARGE_MB)
    })
}

fn disk_mb(work_dir: &Path) -> u64 {
    match nix::sys::statvfs::statvfs(work_dir) {
        Ok(found) => {
            let bytes = found.blocks().saturating_mul(found.fragment_size());
            left(bytes >> 20, DISK_LEFT_MB, DISK_LARGE_MB)
        }
        Err(_) => DISK_UNKNOWN_MB,
    }
}

fn left(total: u64, reserve: u64, large: u64) -> u64 {
    if total >= large {
        total - reserve
    } else {
        total / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_flag_names_stays_and_the_rest_is_found_out() {
        let found =
            resources("cpus:1.5;mem(web):64;gold:7", &Role::star(), Path::new("/")).unwrap();
        assert_eq!(found.cpus(), Milli(1500));
        assert_eq!(found.mem(), Milli(64_000));
        assert_eq!(found.scalar("gold"), Milli(7000));
        assert!(found.disk().is_positive());
        assert_eq!(found.ports(), Ranges::single(PORTS.0, PORTS.1));
        assert!(resources("cpus:x", &Role::star(), Path::new("/")).is_err());
        assert_eq!(
            resources("disk:0", &Role::star(), Path::new("/"))
                .unwrap()
                .disk(),
            Milli(0)
        );
    }

    #[test]
    fn the_default_role_gets_what_names_no_role_found_out_or_not() {
        let role = Role::parse("web").unwrap();
        let found = resources("cpus:2;gold(mint):7", &role, Path::new("/")).unwrap();
        assert_eq!(found.unreserved(), Resources::new());
        let of_role = found.reserved_to(&role);
        assert_eq!(of_role.cpus(), Milli(2000));
        assert!(of_role.mem().is_positive() && of_role.disk().is_positive());
        assert!(!of_role.ports().is_empty());
    }

    #[test]
    fn a_small_machine_gives_half_and_a_large_one_all_but_a_reserve() {
        assert_eq!(left(1000, MEMORY_LEFT_MB, MEMORY_LARGE_MB), 500);
        assert_eq!(left(2048, MEMORY_LEFT_MB, MEMORY_LARGE_MB), 1024);
        assert_eq!(left(20_480, DISK_LEFT_MB, DISK_LARGE_MB), 15_360);
    }

    #[test]
    fn the_isolation_is_the_agents_word_and_not_the_operators() {
        let attributes = attributes(
            "rack:a;tepui_isolation:perfect;tepui_wall:high",
            "none",
            "low",
        )
        .unwrap();
        let texts: Vec<_> = attributes
            .iter()
            .map(|attribute| {
                (
                    attribute.name.as_str(),
                    attribute.text.as_ref().unwrap().value.as_str(),
                )
            })
            .collect();
        let expected = [
            ("rack", "a"),
            ("tepui_isolation", "none"),
            ("tepui_wall", "low"),
        ];
        assert_eq!(texts, expected);
    }
}
