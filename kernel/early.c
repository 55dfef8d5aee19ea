// SPDX-License-Identifier: GPL-2.0
/*
 * Queues whose driver busy-waits for its requests (VLO_Q_EARLY).
 *
 * Linux's console driver sends with interrupts off, and gives the processor away only when the
 * device has taken what it sent. A process cannot be relied on for that: it may need the very
 * processor. So a request is copied and completed at once, and goes to the back end afterwards:
 *
 *   driver -- copy, complete --> slots (kernel memory) --> device's ring --> back end
 *
 * There are as many slots as the ring has entries, in the order of the driver. While no back end is
 * there they hold what it will get. When all are full the module waits for the back end to take
 * one, for 20 ms at most and with more than one processor only, and then drops what came last, as a
 * serial line without flow control does. It waits again when the back end has gone on.
 *
 *   tail ............ sent ............ head
 *     in the device's    still to go       free, up to tail + size
 */
#include <linux/cpumask.h>
#include <linux/delay.h>
#include <linux/slab.h>
#include "vlo.h"

#define VLO_EARLY_BYTES		4096	/* largest request: what a console sends at a time */
#define VLO_EARLY_WAIT_US	20000	/* longest wait for a free slot */

struct vlo_early {
	u32 head, sent;			/* avail_lock */
	u32 tail;			/* used_lock; read elsewhere */
	u32 stalled;			/* tail + 1 after a wait that was in vain; avail_lock */
	u16 *sizes;			/* by slot */
	u8 *bytes;
};

static u32 vlo_slot(const struct vlo_vq *queue, u32 position)
{
	return position & (queue->size - 1);
}

/**
 * vlo_early_make() - allocates the slots of a queue with VLO_Q_EARLY
 * @queue: the queue
 * @size: entries of its ring
 *
 * Context: Holds device->lock.
 *
 * Return: 0 or -ENOMEM.
 */
int vlo_early_make(struct vlo_vq *queue, u32 size)
{
	struct vlo_early *early = kzalloc(sizeof(*early), GFP_KERNEL_ACCOUNT);

	if (!early)
		return -ENOMEM;
	queue->early = early;
	early->sizes = kvcalloc(size, sizeof(*early->sizes), GFP_KERNEL_ACCOUNT);
	early->bytes = kvcalloc(size, VLO_EARLY_BYTES, GFP_KERNEL_ACCOUNT);
	if (early->sizes && early->bytes)
		return 0;
	vlo_early_free(queue);
	return -ENOMEM;
}

/**
 * vlo_early_free() - frees the slots of a queue, if it has any
 * @queue: the queue
 *
 * Context: Holds device->lock.
 */
void vlo_early_free(struct vlo_vq *queue)
{
	struct vlo_early *early;

	/* A driver that prints just now is in vlo_early_take(), or finds the queue paused. */
	spin_lock_irq(&queue->avail_lock);
	early = queue->early;
	queue->early = NULL;
	spin_unlock_irq(&queue->avail_lock);
	if (!early)
		return;
	kvfree(early->sizes);
	kvfree(early->bytes);
	kfree(early);
}

static bool vlo_early_has_room(const struct vlo_vq *queue)
{
	struct vlo_early *early = queue->early;
	u32 tail, waited;

	for (waited = 0;; waited++) {
		/* A slot that is free is no longer read from. */
		tail = smp_load_acquire(&early->tail);
		if (early->head - tail < queue->size)
			return true;
		if (waited == VLO_EARLY_WAIT_US || early->stalled == tail + 1 ||
		    queue->avail_paused || !queue->ring.is_active || num_online_cpus() == 1)
			break;
		udelay(1);
	}
	early->stalled = tail + 1;
	return false;
}

/**
 * vlo_early_take() - copies a request of the driver into a slot, or drops it
 * @queue: the queue
 * @head: the request, by its head in the driver's ring
 *
 * The caller completes it in either case.
 *
 * Context: Holds avail_lock.
 */
void vlo_early_take(struct vlo_vq *queue, u16 head)
{
	struct vlo_early *early = queue->early;
	u32 slot = vlo_slot(queue, early->head);
	struct vlo_shape shape;

	lockdep_assert_held(&queue->avail_lock);
	if (vlo_measure(queue, head, &shape) || shape.in_bytes || !shape.out_bytes ||
	    shape.out_bytes > VLO_EARLY_BYTES || !vlo_early_has_room(queue)) {
		queue->counters.dropped++;
		return;
	}
	vlo_gather(queue, head, early->bytes + slot * VLO_EARLY_BYTES);
	early->sizes[slot] = shape.out_bytes;
	queue->requests[slot].state = VLO_PREPARED;
	early->head++;
}

/**
 * vlo_early_send() - puts slots that are still to go into the device's ring
 * @queue: the queue
 *
 * Context: Holds avail_lock.
 *
 * Return: True if there was at least one.
 */
bool vlo_early_send(struct vlo_vq *queue)
{
	struct vlo_early *early = queue->early;
	bool is_new = false;
	u32 slot;

	lockdep_assert_held(&queue->avail_lock);
	for (; early->sent != early->head; early->sent++) {
		slot = vlo_slot(queue, early->sent);
		/* The last back end may have completed it out of turn. */
		if (queue->requests[slot].state != VLO_PREPARED)
			continue;
		if (vlo_place_bytes(queue, slot, early->bytes + slot * VLO_EARLY_BYTES,
				    early->sizes[slot]))
			break;
		queue->counters.forwarded++;
		queue->counters.out_bytes += early->sizes[slot];
		is_new = true;
	}
	return is_new;
}

/**
 * vlo_early_done() - the back end has used a slot
 * @queue: the queue
 * @slot: the slot
 *
 * Context: Holds used_lock.
 */
void vlo_early_done(struct vlo_vq *queue, u16 slot)
{
	struct vlo_early *early = queue->early;
	u32 tail = early->tail;

	lockdep_assert_held(&queue->used_lock);
	WRITE_ONCE(queue->requests[slot].state, VLO_IDLE);
	while (tail != READ_ONCE(early->sent) &&
	       READ_ONCE(queue->requests[vlo_slot(queue, tail)].state) == VLO_IDLE)
		tail++;
	/* The slot is idle before it can be taken again. */
	smp_store_release(&early->tail, tail);
}

/**
 * vlo_early_replay() - marks slots that the last back end did not use as still to go
 * @queue: the queue
 *
 * Context: Holds device->lock; the queue is paused.
 *
 * Return: The number of these slots.
 */
u32 vlo_early_replay(struct vlo_vq *queue)
{
	struct vlo_early *early = queue->early;
	u32 at, count = 0;

	for (at = early->tail; at != early->sent; at++) {
		struct vlo_request *request = &queue->requests[vlo_slot(queue, at)];

		if (request->state != VLO_SENT)
			continue;
		request->state = VLO_PREPARED;
		request->pages = 0;
		count++;
	}
	early->sent = early->tail;
	return count;
}
