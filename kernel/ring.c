// SPDX-License-Identifier: GPL-2.0
/*
 * The device's ring, from its driver's side: split and packed (virtio 1.3, sections 2.7 and 2.8).
 *
 * The ring lies in memory that the back end can write at any time. Descriptors and available
 * entries are written here and never read back. Used entries, used index and event fields are read
 * once each; the caller checks what they say.
 *
 *               split                                   packed
 *   available   avail->ring[avail_next], avail->idx     slots[avail_next], flags by avail_wrap
 *   used        used->ring[used_next], used->idx        slots[used_next], flags by used_wrap
 *
 * Ids are heads of the driver's ring. In a split ring a chain has the slots that it has in the
 * driver's ring; so the two rings need no lists of free slots besides the driver's own.
 */
#include "vlo.h"

#define VLO_AVAIL_FLAG	BIT(VRING_PACKED_DESC_F_AVAIL)
#define VLO_USED_FLAG	BIT(VRING_PACKED_DESC_F_USED)

/* Where a split ring's areas begin: the used ring on a cache line of its own. */
static size_t vlo_avail_offset(u32 size)
{
	return size * sizeof(struct vring_desc);
}

static size_t vlo_used_offset(u32 size)
{
	return ALIGN(vlo_avail_offset(size) + sizeof(struct vring_avail) +
		     (size + 1) * sizeof(__virtio16), 64);
}

/**
 * vlo_ring_bytes() - the room that a ring takes, split or packed
 * @size: entries
 *
 * Return: Bytes.
 */
size_t vlo_ring_bytes(u32 size)
{
	return vlo_used_offset(size) + sizeof(struct vring_used) +
	       size * sizeof(struct vring_used_elem) + sizeof(__virtio16);
}

/**
 * vlo_ring_init() - an empty ring in fresh, zeroed memory
 * @ring: the ring
 * @place: its memory
 * @address: guest address of its memory
 * @size: entries
 * @features: feature bits of rings that the back end has
 * @used: requests that were completed since the driver made its ring
 *
 * The back end begins at @used. A base other than 0 tells it that the driver is not a new one.
 *
 * Context: No half of the queue runs.
 */
void vlo_ring_init(struct vlo_ring *ring, void *place, u64 address, u32 size, u64 features,
		   u16 used)
{
	u16 start, i;

	memset(ring, 0, sizeof(*ring));
	ring->size = size;
	ring->is_packed = features & BIT_ULL(VIRTIO_F_RING_PACKED);
	ring->has_event_idx = features & BIT_ULL(VIRTIO_RING_F_EVENT_IDX);
	ring->descriptor = address;
	if (ring->is_packed) {
		/* A position that was not the first stays one that is not. */
		start = used && !(used & (size - 1)) ? size / 2 : used & (size - 1);
		ring->slots = place;
		ring->driver_event = place + vlo_avail_offset(size);
		ring->device_event = place + vlo_used_offset(size);
		ring->driver = address + vlo_avail_offset(size);
		ring->device = address + vlo_used_offset(size);
		ring->avail_next = start;
		ring->avail_wrap = true;
		ring->used_wrap = true;
		ring->base = (start | BIT(15)) | (u32)(start | BIT(15)) << 16;
		/* The first lap leaves these out. As zeros they would look used in the second. */
		for (i = 0; i < start; i++)
			ring->slots[i].flags = cpu_to_le16(VLO_AVAIL_FLAG | VLO_USED_FLAG);
	} else {
		start = used;
		ring->desc = place;
		ring->avail = place + vlo_avail_offset(size);
		ring->used = place + vlo_used_offset(size);
		ring->driver = address + vlo_avail_offset(size);
		ring->device = address + vlo_used_offset(size);
		ring->avail->idx = vlo_put16(start);
		ring->used->idx = vlo_put16(start);
		/* Some back ends ask for a kick only when they have taken a request. */
		*(__virtio16 *)&ring->used->ring[size] = vlo_put16(start);
		ring->avail_next = start;
		ring->base = start;
	}
	ring->avail_kicked = start;
	ring->used_next = start;
	ring->is_active = true;
	vlo_ring_arm(ring, 0);
}

/* ---- the driver's half ---- */

static void vlo_packed_step(u16 *at, bool *wrap, u16 size, u16 count)
{
	*at += count;
	if (*at >= size) {
		*at -= size;
		*wrap = !*wrap;
	}
}

/**
 * vlo_ring_begin() - begins a request
 * @emit: its state until vlo_ring_end(), filled in here
 * @ring: the ring
 * @head: its head in the driver's ring
 *
 * Its descriptors follow by vlo_ring_put(), then vlo_ring_end().
 *
 * Context: By the owner of the avail half.
 */
void vlo_ring_begin(struct vlo_emit *emit, struct vlo_ring *ring, u16 head)
{
	emit->ring = ring;
	emit->table = NULL;
	emit->count = 0;
	emit->first = ring->is_packed ? ring->avail_next : head;
}

/**
 * vlo_ring_put_packed() - vlo_ring_put() for a packed ring and its tables
 * @emit: the request
 * @address: guest address of the buffer
 * @size: bytes of the buffer
 * @flags: VRING_DESC_F_*
 *
 * Context: By the owner of the avail half.
 */
void vlo_ring_put_packed(struct vlo_emit *emit, u64 address, u32 size, u16 flags)
{
	struct vlo_ring *ring = emit->ring;
	bool wrap = ring->avail_wrap;
	u16 at = ring->avail_next;
	struct vring_packed_desc *slot;

	if (emit->table) {
		slot = (struct vring_packed_desc *)emit->table + emit->count;
		flags &= VRING_DESC_F_WRITE;
	} else {
		vlo_packed_step(&at, &wrap, ring->size, emit->count);
		slot = &ring->slots[at];
		flags |= wrap ? VLO_AVAIL_FLAG : VLO_USED_FLAG;
	}
	slot->addr = cpu_to_le64(address);
	slot->len = cpu_to_le32(size);
	if (emit->table || emit->count)
		slot->flags = cpu_to_le16(flags);
	else
		emit->first_flags = cpu_to_le16(flags);
	emit->count++;
}

/**
 * vlo_ring_end() - ends a request
 * @emit: the request
 * @head: its head in the driver's ring
 *
 * In a packed ring the back end can see it from then on; in a split ring, after vlo_ring_publish().
 *
 * Context: By the owner of the avail half.
 */
void vlo_ring_end(struct vlo_emit *emit, u16 head)
{
	struct vlo_ring *ring = emit->ring;
	u16 last = ring->avail_next;
	bool wrap = ring->avail_wrap;

	if (!ring->is_packed) {
		ring->avail->ring[ring->avail_next & (ring->size - 1)] = vlo_put16(head);
		ring->avail_next++;
		return;
	}
	/* The id is that of the last descriptor. */
	vlo_packed_step(&last, &wrap, ring->size, emit->count - 1);
	ring->slots[last].id = cpu_to_le16(head);
	/* The flags of the first make all of them the back end's. */
	smp_store_release(&ring->slots[emit->first].flags, emit->first_flags);
	vlo_packed_step(&ring->avail_next, &ring->avail_wrap, ring->size, emit->count);
}

/**
 * vlo_ring_publish() - shows all requests so far to the back end
 * @ring: the ring
 *
 * Context: By the owner of the avail half.
 */
void vlo_ring_publish(struct vlo_ring *ring)
{
	if (ring->is_packed)
		return;
	/* Entries and descriptors before the index. */
	smp_store_release(&ring->avail->idx, vlo_put16(ring->avail_next));
}

static bool vlo_packed_wants_kick(struct vlo_ring *ring, u16 old)
{
	u16 flags = le16_to_cpu(READ_ONCE(ring->device_event->flags)) & 3;
	u16 position, event;

	if (flags != VRING_PACKED_EVENT_FLAG_DESC || !ring->has_event_idx)
		return flags != VRING_PACKED_EVENT_FLAG_DISABLE;
	position = le16_to_cpu(READ_ONCE(ring->device_event->off_wrap));
	event = position & ~BIT(15);
	if (!!(position & BIT(15)) != ring->avail_wrap)
		event -= ring->size;
	return vring_need_event(event, ring->avail_next, old);
}

/**
 * vlo_ring_wants_kick() - asks whether the back end waits for a kick
 * @ring: the ring
 *
 * Answers for the requests since the last time it was asked.
 *
 * Context: By the owner of the avail half.
 *
 * Return: True if it waits.
 */
bool vlo_ring_wants_kick(struct vlo_ring *ring)
{
	u16 old = ring->avail_kicked;

	/* Requests are visible before we look whether the back end sleeps; it does the opposite. */
	smp_mb();
	ring->avail_kicked = ring->avail_next;
	if (ring->is_packed) {
		/* Positions are compared in the present lap. */
		if (old > ring->avail_next)
			old -= ring->size;
		return vlo_packed_wants_kick(ring, old);
	}
	if (ring->has_event_idx)
		return vring_need_event(vlo_get16(READ_ONCE(*(__virtio16 *)
				&ring->used->ring[ring->size])), ring->avail_next, old);
	return !(vlo_get16(READ_ONCE(ring->used->flags)) & VRING_USED_F_NO_NOTIFY);
}

/* ---- what the device has used ---- */

static bool vlo_packed_is_used(struct vlo_ring *ring)
{
	/* Id and length, and the buffers, are there when the flags say so. */
	u16 flags = le16_to_cpu(smp_load_acquire(&ring->slots[ring->used_next].flags));

	return !!(flags & VLO_AVAIL_FLAG) == ring->used_wrap &&
	       !!(flags & VLO_USED_FLAG) == ring->used_wrap;
}

/**
 * vlo_ring_peek() - reads the next used entry, without taking it
 * @ring: the ring
 * @sent: requests that are in the ring; a back end cannot have used more
 * @id: filled in as the back end wrote it, unchecked; U32_MAX where the ring makes no sense
 * @used: filled in as the back end wrote it, unchecked
 *
 * Context: By the owner of the used half.
 *
 * Return: False if there is none.
 */
bool vlo_ring_peek(struct vlo_ring *ring, u32 sent, u32 *id, u32 *used)
{
	struct vring_used_elem *entry;
	u16 count;

	if (ring->is_packed) {
		if (!vlo_packed_is_used(ring))
			return false;
		*id = le16_to_cpu(READ_ONCE(ring->slots[ring->used_next].id));
		*used = le32_to_cpu(READ_ONCE(ring->slots[ring->used_next].len));
		return true;
	}
	/* Entries, and the buffers, are there when the index says so. */
	count = vlo_get16(smp_load_acquire(&ring->used->idx)) - ring->used_next;
	if (!count)
		return false;
	entry = &ring->used->ring[ring->used_next & (ring->size - 1)];
	*id = count > sent ? U32_MAX : vlo_get32(READ_ONCE(entry->id));
	*used = vlo_get32(READ_ONCE(entry->len));
	return true;
}

/**
 * vlo_ring_unseen() - counts what the device has used and the module has not taken yet
 * @ring: the ring
 *
 * Context: Any context; the ring's memory stays.
 *
 * Return: The number; in a packed ring 1 stands for any.
 */
u16 vlo_ring_unseen(struct vlo_ring *ring)
{
	if (!ring->is_active)
		return 0;
	if (ring->is_packed)
		return vlo_packed_is_used(ring);
	return vlo_get16(READ_ONCE(ring->used->idx)) - ring->used_next;
}

/**
 * vlo_ring_wishes() - reads when each side wants to be woken, for people who look
 * @ring: the ring
 * @kick_at: filled in: where in the ring the back end wants a kick
 * @call_at: filled in: where in the ring it is asked for a call
 *
 * Context: Any context; the ring's memory stays.
 */
void vlo_ring_wishes(const struct vlo_ring *ring, u16 *kick_at, u16 *call_at)
{
	*kick_at = 0;
	*call_at = 0;
	if (!ring->is_active || !ring->has_event_idx)
		return;
	if (ring->is_packed) {
		*kick_at = le16_to_cpu(READ_ONCE(ring->device_event->off_wrap));
		*call_at = le16_to_cpu(READ_ONCE(ring->driver_event->off_wrap));
	} else {
		*kick_at = vlo_get16(READ_ONCE(*(__virtio16 *)&ring->used->ring[ring->size]));
		*call_at = vlo_get16(READ_ONCE(ring->avail->ring[ring->size]));
	}
}

/**
 * vlo_ring_advance() - takes the next used entry
 * @ring: the ring
 * @count: descriptors that its request has in the ring
 *
 * Context: By the owner of the used half.
 */
void vlo_ring_advance(struct vlo_ring *ring, u16 count)
{
	if (ring->is_packed)
		vlo_packed_step(&ring->used_next, &ring->used_wrap, ring->size, count);
	else
		ring->used_next++;
}

/**
 * vlo_ring_arm() - asks the back end for a call
 * @ring: the ring
 * @ahead: used entries to leave without a call before that
 *
 * Context: By the owner of the used half.
 *
 * Return: True if the back end has used that many already, and may not call.
 */
bool vlo_ring_arm(struct vlo_ring *ring, u16 ahead)
{
	if (ring->is_packed) {
		if (ring->has_event_idx) {
			WRITE_ONCE(ring->driver_event->off_wrap,
				   cpu_to_le16(ring->used_next | ring->used_wrap << 15));
			smp_wmb();	/* the position before the flag that makes it count */
			WRITE_ONCE(ring->driver_event->flags,
				   cpu_to_le16(VRING_PACKED_EVENT_FLAG_DESC));
		}
		/* The wish is visible before we look again. */
		smp_mb();
		return vlo_packed_is_used(ring);
	}
	if (ring->has_event_idx)
		WRITE_ONCE(ring->avail->ring[ring->size], vlo_put16(ring->used_next + ahead));
	else
		ahead = 0;
	/* The wish is visible before we look again. */
	smp_mb();
	return (u16)(vlo_get16(READ_ONCE(ring->used->idx)) - ring->used_next) > ahead;
}
