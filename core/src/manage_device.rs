//! The commands that tell of users and their devices, and send devices away.

use alloc::format;
use alloc::vec::Vec;

use crate::broker::Broker;
use crate::context::Context;
use crate::effect::{After, CloseCode, Durability};
use crate::error::{ErrorCode, Refusal};
use crate::input::Rights;
use crate::manage::page_of_names;
use crate::namespace::Namespace;
use crate::protocol::field::{Item as _, List, Strings};
use crate::protocol::frame::{
    Affected, DescribeUser, DeviceDescription, Devices, Kick, ListDevices, ListUsers, Reply,
    UserDescription, Users,
};
use crate::publish::check_sizes;
use crate::wire::put_framed;

impl Namespace {
    /// Tells of the devices of a user.
    pub(crate) fn list_devices(
        &self,
        cx: &mut Context,
        connection: u32,
        command: &ListDevices<'_>,
    ) -> Result<(), Refusal> {
        let own = cx.connections[connection as usize].claims.user.clone();
        let user = command.user.unwrap_or(&own);
        require_own(cx, connection, user, "look at the devices of others")?;
        let devices = self
            .devices
            .of_users
            .get(user)
            .map_or(&[][..], Vec::as_slice);
        let entries = &self.devices.entries;
        let after = command.after.unwrap_or_default();
        let first = devices.partition_point(|device| &*entries[*device as usize].name <= after);
        let max = command
            .devices_max
            .unwrap_or(u64::MAX)
            .clamp(1, cx.config.list_topics_max);
        let mut items = Vec::new();
        for device in devices[first..].iter().take(max as usize) {
            let entry = &entries[*device as usize];
            let cursors = entry.session.iter().flat_map(|session| &session.cursors);
            let item = DeviceDescription {
                user,
                device: &entry.name,
                online: !entry.connections.is_empty(),
                last_seen: entry.heard_at(cx).0,
                session: entry.session.is_some(),
                waiting: cursors.map(|cursor| self.waiting_at(cx, cursor)).sum(),
            };
            put_framed(&mut items, 0, |out| item.put_fields(out));
        }
        let devices = Devices {
            request: command.request,
            devices: List::new(&items),
            more: (devices.len() - first) as u64 > max,
        };
        cx.reply(connection, After::default(), &Reply::Devices(devices));
        Ok(())
    }

    /// Tells of a user, known or not.
    pub(crate) fn describe_user(
        &self,
        cx: &mut Context,
        connection: u32,
        command: &DescribeUser<'_>,
    ) -> Result<(), Refusal> {
        require_presence(cx, connection)?;
        let devices = self.devices.of_users.get(command.user);
        let devices = devices.map_or(&[][..], Vec::as_slice);
        let connections = self.devices.connected.get(command.user);
        let connections = connections.map_or(&[][..], Vec::as_slice);
        let heard = devices
            .iter()
            .map(|device| self.devices.entries[*device as usize].heard_at(cx));
        let seen = connections
            .iter()
            .map(|index| cx.connections[*index as usize].seen_at);
        let user = UserDescription {
            request: command.request,
            user: command.user,
            online: !connections.is_empty(),
            last_seen: heard.chain(seen).max().unwrap_or_default().0,
            connections: connections.len() as u64,
            devices: devices.len() as u64,
        };
        cx.reply(connection, After::default(), &Reply::UserDescription(user));
        Ok(())
    }

    /// Names the users that are online.
    pub(crate) fn list_users(
        &self,
        cx: &mut Context,
        connection: u32,
        command: &ListUsers<'_>,
    ) -> Result<(), Refusal> {
        require_presence(cx, connection)?;
        let connected = &self.devices.connected;
        let asked = (command.after, command.users_max);
        let max = cx.config.list_topics_max;
        let (names, more) = page_of_names(connected, asked, max, |_| true);
        let users = Users {
            request: command.request,
            users: Strings::parse(&names).unwrap_or_default(),
            more,
            online: connected.len() as u64,
        };
        cx.reply(connection, After::default(), &Reply::Users(users));
        Ok(())
    }
}

impl Broker {
    /// Closes the connections of a device, or of all devices of a user, and forgets them with their sessions.
    pub(crate) fn kick(&mut self, index: u32, command: &Kick<'_>) -> Result<(), Refusal> {
        let cx = &mut self.cx;
        require_own(cx, index, command.user, "kick the devices of others")?;
        check_sizes(&cx.config, &[], None, &[("reason", command.reason)])?;
        if command.device == Some("") {
            let message = "\"device\" names a device; leave it out for all of the user";
            return Err(Refusal::new(ErrorCode::InvalidArgument, message));
        }
        let number = cx.connections[index as usize].namespace;
        let namespace = &mut self.namespaces[number as usize];
        let is_meant = |device: &str| command.device.is_none_or(|asked| asked == device);
        let devices = namespace.devices.of_users.get(command.user);
        let devices = devices.into_iter().flatten().copied();
        let entries = &namespace.devices.entries;
        let devices: Vec<u32> = devices
            .filter(|device| is_meant(&entries[*device as usize].name))
            .collect();
        // Who has no device that is remembered is sent away as well.
        let connections = namespace.devices.connected.get(command.user);
        let others: Vec<u32> = connections
            .into_iter()
            .flatten()
            .copied()
            .filter(|connection| {
                let client = &cx.connections[*connection as usize];
                client.device.is_none() && is_meant(&client.claims.device)
            })
            .collect();
        let mut after = After::default();
        if !devices.is_empty() {
            cx.require_storage()?;
            after = namespace.after_all(cx, Durability::Sync);
        }
        let affected = Affected {
            request: command.request,
            messages: (devices.len() + others.len()) as u64,
        };
        cx.reply(index, after, &Reply::Affected(affected));
        let reason = command.reason.unwrap_or("the device was sent away");
        for device in devices {
            self.end_device(number, device, ErrorCode::Kicked, reason);
        }
        for connection in others {
            self.close(connection, CloseCode::Kicked, ErrorCode::Kicked, reason);
        }
        Ok(())
    }
}

/// Refuses what only the user may do, or who manages.
fn require_own(cx: &Context, connection: u32, user: &str, what: &str) -> Result<(), Refusal> {
    let claims = &cx.connections[connection as usize].claims;
    if user.is_empty() {
        let message = "\"user\" names no user, and the connection has none";
        return Err(Refusal::new(ErrorCode::InvalidArgument, message));
    }
    if claims.user == user || claims.rights.contains(Rights::MANAGE) {
        return Ok(());
    }
    let message = format!("this connection may not {what}");
    Err(Refusal::new(ErrorCode::Forbidden, message))
}

fn require_presence(cx: &Context, connection: u32) -> Result<(), Refusal> {
    let rights = cx.connections[connection as usize].claims.rights;
    if rights.contains(Rights::PRESENCE) {
        return Ok(());
    }
    let message = "this connection may not see who is present";
    Err(Refusal::new(ErrorCode::Forbidden, message))
}
