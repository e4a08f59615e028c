"""Every call of a registry that touches Redis, once each and in one story."""

from __future__ import annotations

from typing import Any

from services.registry import wire
from tests.support.registry_requests import PARENT, claimed, enqueue
from tests.support.registry_samples import BOOT, EXEC_SPEC, FIRST, MAYOR, message
from townkeeper.registry.v1 import registry_pb2 as pb
from townkeeper.registry.v1 import resources_pb2 as resources


async def every_call(stub: Any) -> None:
    """One town with one agent, from its registration to its end."""
    epoch = await claimed(stub)
    watch = stub.WatchMessages(pb.WatchMessagesRequest(parent=PARENT))
    assert "" == (await watch.read()).agent
    await stub.EnqueueMessage(enqueue("m-1"))
    assert str(MAYOR) == (await watch.read()).agent
    watch.cancel()
    agents = stub.WatchAgents(pb.WatchAgentsRequest(parent=PARENT))
    assert str(MAYOR) == (await agents.read()).changed.name
    assert (await agents.read()).synced
    await stub.EnqueueMessage(enqueue("m-2"))
    assert 2 == (await agents.read()).changed.pending_messages_count
    agents.cancel()
    await stub.Heartbeat(pb.HeartbeatRequest(name=str(FIRST), boot_id=BOOT))
    await stub.AcknowledgeMessage(
        pb.AcknowledgeMessageRequest(
            name=str(message("m-1")),
            epoch=epoch,
            instance=str(FIRST),
            boot_id=BOOT,
            generation=1,
            outcome=resources.Message.STATE_DELIVERED,
        )
    )
    await stub.ListMessages(pb.ListMessagesRequest(parent=str(MAYOR)))
    await stub.ResolveAgent(pb.ResolveAgentRequest(name=str(MAYOR)))
    drain = await stub.AnnounceDrain(pb.AnnounceDrainRequest(parent=PARENT))
    await stub.GetDrainStatus(pb.GetDrainStatusRequest(parent=PARENT))
    await stub.ConfirmReady(pb.ConfirmReadyRequest(parent=PARENT, nonce=drain.nonce))
    release = pb.LeaseRelease(agent=str(MAYOR), epoch=epoch)
    await stub.ReleaseAgents(
        pb.ReleaseAgentsRequest(instance=str(FIRST), boot_id=BOOT, releases=[release])
    )
    await stub.ListInstances(pb.ListInstancesRequest(parent=PARENT))
    asked = pb.ReleaseInstanceRequest(name=str(FIRST), boot_id=BOOT)
    await stub.ReleaseInstance(asked)
    spec = wire.spec_to_proto(EXEC_SPEC, reveal=True)
    changed = resources.Agent(name=str(MAYOR), spec=spec)
    update = pb.UpdateAgentRequest(agent=changed)
    update.update_mask.paths.append("spec")
    await stub.UpdateAgent(update)
    await stub.ReplaceAgents(pb.ReplaceAgentsRequest(parent=PARENT))
    await stub.ListAgents(pb.ListAgentsRequest(parent=PARENT))
    await stub.DeregisterAgent(pb.DeregisterAgentRequest(name=str(MAYOR)))
