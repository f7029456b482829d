//! What can be allowed or denied, under the names that the lists have in an ACL file.

macro_rules! actions {
    ($($variant:ident $list:literal $objects:literal,)*) => {
        /// Something a principal does to an object: register in a role, run as a user, see a task.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Action {
            $($variant,)*
        }

        impl Action {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name of the action's list in an ACL file.
            pub fn list(self) -> &'static str {
                match self { $(Self::$variant => $list,)* }
            }

            /// The field that names the objects in an entry of the list.
            pub fn objects(self) -> &'static str {
                match self { $(Self::$variant => $objects,)* }
            }
        }
    };
}

actions! {
    RegisterFramework "register_frameworks" "roles",
    RunTask "run_tasks" "users",
    TeardownFramework "teardown_frameworks" "framework_principals",
    ReserveResources "reserve_resources" "roles",
    UnreserveResources "unreserve_resources" "reserver_principals",
    CreateVolume "create_volumes" "roles",
    DestroyVolume "destroy_volumes" "creator_principals",
    ResizeVolume "resize_volumes" "roles",
    GetQuota "get_quotas" "roles",
    UpdateQuota "update_quotas" "roles",
    UpdateWeight "update_weights" "roles",
    GetStore "get_stores" "roles",
    UpdateStore "update_stores" "roles",
    ViewRole "view_roles" "roles",
    ViewFramework "view_frameworks" "users",
    ViewTask "view_tasks" "users",
    ViewExecutor "view_executors" "users",
    ViewFlags "view_flags" "flags",
    ViewContainer "view_containers" "users",
    GetEndpoint "get_endpoints" "paths",
    AccessSandbox "access_sandboxes" "users",
    AccessMesosLog "access_mesos_logs" "logs",
    SetLogLevel "set_log_level" "level",
    RegisterAgent "register_agents" "agents",
    MarkAgentGone "mark_agents_gone" "agents",
    DrainAgent "drain_agents" "agents",
    DeactivateAgent "deactivate_agents" "agents",
    ReactivateAgent "reactivate_agents" "agents",
    UpdateMaintenanceSchedule "update_maintenance_schedules" "machines",
    GetMaintenanceSchedule "get_maintenance_schedules" "machines",
    GetMaintenanceStatus "get_maintenance_statuses" "machines",
    StartMaintenance "start_maintenances" "machines",
    StopMaintenance "stop_maintenances" "machines",
    LaunchNestedContainer "launch_nested_containers_as_user" "users",
    LaunchNestedContainerUnderParent "launch_nested_containers_under_parent_with_user" "users",
    LaunchNestedContainerSession "launch_nested_container_sessions_as_user" "users",
    LaunchNestedContainerSessionUnderParent "launch_nested_container_sessions_under_parent_with_user" "users",
    KillNestedContainer "kill_nested_containers" "users",
    WaitNestedContainer "wait_nested_containers" "users",
    RemoveNestedContainer "remove_nested_containers" "users",
    AttachContainerInput "attach_containers_input" "users",
    AttachContainerOutput "attach_containers_output" "users",
    LaunchStandaloneContainer "launch_standalone_containers" "users",
    KillStandaloneContainer "kill_standalone_containers" "users",
    WaitStandaloneContainer "wait_standalone_containers" "users",
    RemoveStandaloneContainer "remove_standalone_containers" "users",
    ViewStandaloneContainer "view_standalone_containers" "users",
    PruneImages "prune_images" "images",
    ModifyResourceProviderConfig "modify_resource_provider_configs" "resource_providers",
    ViewResourceProvider "view_resource_providers" "resource_providers",
    MarkResourceProviderGone "mark_resource_providers_gone" "resource_providers",
    CreateBlockDisk "create_block_disks" "roles",
    DestroyBlockDisk "destroy_block_disks" "roles",
    CreateMountDisk "create_mount_disks" "roles",
    DestroyMountDisk "destroy_mount_disks" "roles",
    DestroyRawDisk "destroy_raw_disks" "roles",
}

impl Action {
    /// Whether the objects are roles, among which `a/%` stands for all below `a`.
    pub(crate) fn is_on_roles(self) -> bool {
        self.objects() == "roles"
    }
}
