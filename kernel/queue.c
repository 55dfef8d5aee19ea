// SPDX-License-Identifier: GPL-2.0
/*
 * Requests, from the driver's ring to the device's and back.
 *
 *   IDLE --> SENT --> IDLE
 *     |        |  vlo_reap()
 *     |        '-- the session ends: PREPARED, to be placed again --> SENT
 *     '-- no back end will come: fails, IDLE
 *
 * vlo_pump() runs in the driver's notification, vlo_reap() in the back end's call, each with a
 * spinlock and interrupts off. Where there is much to copy they hand the queue's half over to a
 * thread (avail_threaded, used_threaded), which copies without either and has the half to itself.
 *
 * To change a session a queue is paused: then neither runs, and no thread has a half. Only queues
 * whose driver busy-waits still take requests, which wait in memory of the kernel's: see early.c.
 */
#include <linux/nospec.h>
#include <linux/platform_device.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include "vlo.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

static u16 vlo_mask(const struct vlo_vq *queue, u16 index)
{
	return index & (queue->size - 1);
}

/* ---- to the driver ---- */

/* The request is done; the driver finds it after vlo_publish(). Under used_lock. */
static void vlo_add_used(struct vlo_vq *queue, u16 head, u32 used)
{
	struct vring_used_elem *entry = &queue->vring.used->ring[vlo_mask(queue, queue->used_next)];

	lockdep_assert_held(&queue->used_lock);
	entry->id = vlo_put32(head);
	entry->len = vlo_put32(used);
	queue->used_next++;
}

/*
 * Has the driver find what is done. Under used_lock. In a queue for the device to fill, only when
 * all is passed on that the back end has published: several buffers may be one packet (virtio 1.3,
 * section 5.1.6.4), of which the driver must not find the first ones alone.
 */
static void vlo_publish(struct vlo_vq *queue)
{
	lockdep_assert_held(&queue->used_lock);
	if (vlo_get16(queue->vring.used->idx) == queue->used_next)
		return;
	/* Entries and buffers before the index. */
	smp_store_release(&queue->vring.used->idx, vlo_put16(queue->used_next));
	set_bit(VLO_INTERRUPT_DUE, &queue->bits);
}

/* The driver may place a request with that head again. Under used_lock. */
static void vlo_complete(struct vlo_vq *queue, u16 head, u32 used)
{
	WRITE_ONCE(queue->requests[head].state, VLO_IDLE);
	vlo_add_used(queue, head, used);
}

static void vlo_fail(struct vlo_vq *queue, u16 head)
{
	unsigned long flags;

	trace_vlo_fail(queue, head);
	vlo_poison(queue, head);
	spin_lock_irqsave(&queue->used_lock, flags);
	queue->counters.failed++;
	vlo_complete(queue, head, 0);
	vlo_publish(queue);
	spin_unlock_irqrestore(&queue->used_lock, flags);
}

/* ---- from the driver's ring to the device's ---- */

static bool vlo_next_head(struct vlo_vq *queue, u16 *head)
{
	const struct vring_avail *avail = queue->vring.avail;

	if (queue->replay_at < queue->replay_count) {
		*head = queue->replay[queue->replay_at];
		return true;
	}
	/* Entries and descriptors are there when the index says so. */
	if (vlo_get16(smp_load_acquire(&avail->idx)) == queue->avail_next)
		return false;
	*head = vlo_mask(queue, vlo_get16(avail->ring[vlo_mask(queue, queue->avail_next)]));
	return true;
}

static void vlo_head_taken(struct vlo_vq *queue)
{
	if (queue->replay_at < queue->replay_count)
		queue->replay_at++;
	else
		queue->avail_next++;
}

/*
 * Does not change the state: a request that finds no room stays in the driver's ring, and is not to
 * be placed from there and by a replay both.
 */
static void vlo_prepare(struct vlo_vq *queue, u16 head, const struct vlo_shape *shape)
{
	struct vlo_request *request = &queue->requests[head];

	/* One that is placed again keeps its turn. */
	if (request->state == VLO_IDLE)
		request->serial = ++queue->serial;
	request->in_bytes = shape->in_bytes;
}

/* Requests forwarded, or completed, with interrupts off at a time; the others go to a thread. */
#define VLO_INLINE_REQUESTS	256

/* Bytes that forwarding a request copies or clears. */
static u64 vlo_forward_bytes(const struct vlo_vq *queue, const struct vlo_shape *shape)
{
	if (vlo_is_direct(queue->device))
		return 0;
	return (u64)shape->out_bytes + (queue->flags & VLO_Q_SECTORS ? 0 : shape->in_bytes);
}

enum vlo_step { VLO_DONE, VLO_AGAIN, VLO_TOO_MUCH };

/* Forwards one request of at most @budget bytes to copy. By who has the avail half. */
static enum vlo_step vlo_pump_one(struct vlo_vq *queue, u32 *budget)
{
	struct vlo_shape *shape = &queue->shape;
	int error;
	u16 head;

	if (!vlo_next_head(queue, &head))
		return VLO_DONE;
	error = vlo_measure(queue, head, shape);
	if (!error && shape->out_bytes > *budget && !vlo_is_direct(queue->device))
		return VLO_TOO_MUCH;
	*budget -= min_t(u64, *budget, vlo_forward_bytes(queue, shape));
	vlo_prepare(queue, head, shape);
	if (!error)
		error = vlo_place(queue, head, shape);
	if (error == -ENOSPC)
		return VLO_DONE;
	vlo_head_taken(queue);
	if (error) {
		dev_warn_ratelimited(&queue->device->parent->dev,
				     "%s: a request of %u bytes fails: the pool is too small\n",
				     queue->device->name, shape->out_bytes + shape->in_bytes);
		vlo_fail(queue, head);
		irq_work_queue(&queue->call_work);
		return VLO_AGAIN;
	}
	trace_vlo_forward(queue, head, shape->out_bytes, shape->in_bytes);
	queue->counters.forwarded++;
	queue->counters.out_bytes += shape->out_bytes;
	return VLO_AGAIN;
}

/* Under avail_lock; @flags: interrupts before that was taken. */
static void vlo_tell_back_end(struct vlo_vq *queue, unsigned long flags)
{
	vlo_ring_publish(&queue->ring);
	if (vlo_ring_wants_kick(&queue->ring)) {
		queue->counters.kicks++;
		vlo_kick(queue, flags);
	}
}

/*
 * The request has buffers for the device to fill, and nothing else. Many drivers place it again
 * when it is done, in the same interrupt: without a back end, completing it would never end.
 */
static bool vlo_only_fills(struct vlo_vq *queue, u16 head)
{
	struct vlo_shape shape;

	return !vlo_measure(queue, head, &shape) && shape.in_bytes && !shape.out_bytes;
}

/*
 * For drivers that busy-wait: they find their requests complete, also while the queue is paused or
 * its device is dead. The thread that goes on from there may need this very processor. Under
 * avail_lock.
 */
static void vlo_pump_early(struct vlo_vq *queue, unsigned long flags)
{
	bool can_send = !queue->avail_paused && !READ_ONCE(queue->device->dead);
	bool is_new = false;
	u16 head;

	while (vlo_next_head(queue, &head) && !vlo_only_fills(queue, head)) {
		vlo_head_taken(queue);
		vlo_early_take(queue, head);
		spin_lock(&queue->used_lock);
		vlo_add_used(queue, head, 0);
		vlo_publish(queue);
		spin_unlock(&queue->used_lock);
		is_new = true;
	}
	if (is_new)
		irq_work_queue(&queue->call_work);
	if (can_send && queue->ring.is_active && vlo_early_send(queue))
		vlo_tell_back_end(queue, flags);
}

/* No back end will come any more. Under avail_lock. */
static void vlo_pump_dead(struct vlo_vq *queue)
{
	bool has_failed = false;
	u16 head;

	while (vlo_next_head(queue, &head) && !vlo_only_fills(queue, head)) {
		vlo_head_taken(queue);
		vlo_fail(queue, head);
		has_failed = true;
	}
	if (has_failed)
		irq_work_queue(&queue->call_work);
}

/**
 * vlo_pump() - forwards the requests that the driver has placed
 * @queue: the queue
 *
 * Context: Any context.
 */
void vlo_pump(struct vlo_vq *queue)
{
	u32 budget = READ_ONCE(vlo_inline_bytes), count = 0;
	unsigned long flags;
	enum vlo_step step;

	spin_lock_irqsave(&queue->avail_lock, flags);
	if (queue->early) {
		vlo_pump_early(queue, flags);
		goto out;
	}
	if (queue->avail_paused || queue->avail_threaded)
		goto out;
	if (unlikely(READ_ONCE(queue->device->dead))) {
		/* While there is a session, its back end may still write into older requests. */
		if (!READ_ONCE(queue->device->pool))
			vlo_pump_dead(queue);
		goto out;
	}
	if (!queue->ring.is_active)
		goto out;
	while (count < VLO_INLINE_REQUESTS &&
	       (step = vlo_pump_one(queue, &budget)) == VLO_AGAIN)
		count++;
	if (count)
		vlo_tell_back_end(queue, flags);
	if (step != VLO_DONE) {
		queue->avail_threaded = true;
		queue_work(vlo_io_wq, &queue->pump_work);
	}
out:
	spin_unlock_irqrestore(&queue->avail_lock, flags);
}

/* Takes the avail half over for this thread, unless it has it, or the queue is paused. */
static bool vlo_own_avail(struct vlo_vq *queue)
{
	unsigned long flags;
	bool is_owner;

	spin_lock_irqsave(&queue->avail_lock, flags);
	is_owner = !queue->avail_paused && queue->ring.is_active;
	queue->avail_threaded = is_owner;
	spin_unlock_irqrestore(&queue->avail_lock, flags);
	return is_owner;
}

/* Gives it back where nothing is left to do. What comes later is seen by vlo_pump(). */
static bool vlo_disown_avail(struct vlo_vq *queue, enum vlo_step step)
{
	unsigned long flags;
	bool is_over;
	u16 head;

	spin_lock_irqsave(&queue->avail_lock, flags);
	vlo_tell_back_end(queue, flags);
	is_over = queue->avail_paused ||
		  (step == VLO_DONE && (test_bit(VLO_STARVED, &queue->bits) ||
					!vlo_next_head(queue, &head)));
	if (is_over)
		queue->avail_threaded = false;
	spin_unlock_irqrestore(&queue->avail_lock, flags);
	return is_over;
}

/**
 * vlo_pump_work() - vlo_pump() in a thread, for large copies and after a wait for the pool
 * @work: pump_work of the queue
 *
 * Context: Process context.
 */
void vlo_pump_work(struct work_struct *work)
{
	struct vlo_vq *queue = container_of(work, struct vlo_vq, pump_work);
	enum vlo_step step;
	u32 budget;

	if (READ_ONCE(queue->early)) {
		vlo_pump(queue);
		return;
	}
	if (!vlo_own_avail(queue))
		return;
	do {
		budget = U32_MAX;
		step = vlo_pump_one(queue, &budget);
		cond_resched();
	} while (!vlo_disown_avail(queue, step));
}

/* ---- from the device's ring to the driver's ---- */

/* The back end is not heard any more. Under used_lock, or by who has the used half. */
static void vlo_break(struct vlo_vq *queue, u32 id)
{
	WRITE_ONCE(queue->ring.is_active, false);
	queue->counters.broken++;
	queue->broken_id = id;
	set_bit(VLO_BREAK_UNTOLD, &queue->bits);
	vlo_post(queue->device, VLO_EVENT_BROKEN);
}

/*
 * Reports a broken ring. Without the queue's locks: a console of the kernel's may be on this very
 * queue, and prints through it.
 */
static void vlo_report_break(struct vlo_vq *queue)
{
	struct vlo_device *device = queue->device;

	if (likely(!test_bit(VLO_BREAK_UNTOLD, &queue->bits)) ||
	    !test_and_clear_bit(VLO_BREAK_UNTOLD, &queue->bits))
		return;
	dev_warn_ratelimited(&device->parent->dev,
			     "%s: the back end broke the ring of queue %u: it used entry %u\n",
			     device->name, queue->index, queue->broken_id);
}

/* The next request that the back end has used, and how much of it; false: none, or nonsense. */
static bool vlo_next_used(struct vlo_vq *queue, u16 *head, u32 *used)
{
	u32 id;

	if (!queue->ring.is_active ||
	    !vlo_ring_peek(&queue->ring, atomic_read(&queue->sent), &id, used))
		return false;
	/* A request that was sent has all that vlo_send() set before. */
	if (id >= queue->size || smp_load_acquire(&queue->requests[id].state) != VLO_SENT) {
		vlo_break(queue, id);
		return false;
	}
	*head = array_index_nospec(id, queue->size);
	return true;
}

/* Gives the request's place back, and has queues go on that wait for one. */
static void vlo_release_place(struct vlo_vq *queue, u16 head)
{
	struct vlo_device *device = queue->device;
	bool has_pages = queue->requests[head].pages;
	u32 index;

	vlo_unplace(queue, head);
	if (!has_pages)
		return;
	smp_mb();	/* the pages are free before we look; see vlo_find_room() */
	for (index = 0; index < device->queue_count; index++) {
		queue = &device->queues[index];
		if (test_bit(VLO_STARVED, &queue->bits) &&
		    test_and_clear_bit(VLO_STARVED, &queue->bits))
			queue_work(vlo_io_wq, &queue->pump_work);
	}
}

/* Tells the driver, or, where it was told before, that there is room. Under used_lock. */
static void vlo_deliver(struct vlo_vq *queue, u16 head, u32 used)
{
	if (queue->early)
		vlo_early_done(queue, head);
	else
		vlo_complete(queue, head, used);
}

/* Copies back and gives the place free; the request is complete but for telling the driver. */
static u32 vlo_finish(struct vlo_vq *queue, u16 head, u32 used)
{
	u32 count = queue->requests[head].count;

	used = vlo_take_back(queue, head, used);
	trace_vlo_complete(queue, head, used);
	queue->counters.completed++;
	queue->counters.in_bytes += used;
	vlo_release_place(queue, head);
	vlo_ring_advance(&queue->ring, count);
	atomic_dec(&queue->sent);
	return used;
}

/*
 * With many requests outstanding one call can tell of several. Returns how many used entries the
 * back end may leave without a call, and has them looked for after a time. Under used_lock.
 */
static u16 vlo_moderate(struct vlo_vq *queue)
{
	u32 call_us = queue->device->call_us, ahead;

	ahead = call_us ? atomic_read(&queue->sent) / VLO_CALL_SHARE : 0;
	if (ahead && !hrtimer_is_queued(&queue->call_timer))
		hrtimer_start(&queue->call_timer, ns_to_ktime(call_us * 1000ULL),
			      HRTIMER_MODE_REL);
	return ahead;
}

/**
 * vlo_reap() - passes completed requests on to the driver
 * @queue: the queue
 *
 * Context: Any context; usually the irq_work of the call.
 */
void vlo_reap(struct vlo_vq *queue)
{
	u32 budget = READ_ONCE(vlo_inline_bytes), left = VLO_INLINE_REQUESTS, bytes, used;
	unsigned long flags;
	u16 head;

	spin_lock_irqsave(&queue->used_lock, flags);
	if (queue->used_paused || queue->used_threaded || !queue->ring.is_active)
		goto out;
	do {
		for (; vlo_next_used(queue, &head, &used); left--) {
			bytes = vlo_is_direct(queue->device) ? 0 : queue->requests[head].in_bytes;
			if (bytes > budget || !left)
				goto later;
			budget -= bytes;
			used = vlo_finish(queue, head, used);
			vlo_deliver(queue, head, used);
		}
		vlo_publish(queue);
		/* The back end may say that there is more, and take it back, again and again. */
		if (!left--)
			goto later;
	} while (queue->ring.is_active && vlo_ring_arm(&queue->ring, vlo_moderate(queue)));
	goto out;
later:
	queue->used_threaded = true;
	queue_work(vlo_io_wq, &queue->reap_work);
	if (!(queue->flags & VLO_Q_INBOUND))
		vlo_publish(queue);
out:
	spin_unlock_irqrestore(&queue->used_lock, flags);
	vlo_report_break(queue);
}

/* Gives the used half back where nothing is left. What comes later is seen by vlo_reap(). */
static bool vlo_disown_used(struct vlo_vq *queue)
{
	unsigned long flags;
	bool is_over;

	spin_lock_irqsave(&queue->used_lock, flags);
	/* Where it is paused, the rest is harvested. */
	if (!queue->used_paused)
		vlo_publish(queue);
	is_over = queue->used_paused || !queue->ring.is_active ||
		  !vlo_ring_arm(&queue->ring, vlo_moderate(queue));
	if (is_over)
		queue->used_threaded = false;
	spin_unlock_irqrestore(&queue->used_lock, flags);
	vlo_report_break(queue);
	irq_work_queue(&queue->call_work);
	return is_over;
}

/**
 * vlo_reap_work() - vlo_reap() in a thread, for large copies
 * @work: reap_work of the queue
 *
 * Context: Process context.
 */
void vlo_reap_work(struct work_struct *work)
{
	struct vlo_vq *queue = container_of(work, struct vlo_vq, reap_work);
	unsigned long flags;
	u32 untold = 0, used;
	bool is_due;
	u16 head;

	do {
		cond_resched();
		while (!READ_ONCE(queue->used_paused) && vlo_next_used(queue, &head, &used)) {
			untold += queue->requests[head].in_bytes;
			used = vlo_finish(queue, head, used);
			/* One interrupt for several requests, but none waits for many copies. */
			is_due = untold >= VLO_TELL_BYTES && !(queue->flags & VLO_Q_INBOUND);
			spin_lock_irqsave(&queue->used_lock, flags);
			vlo_deliver(queue, head, used);
			if (is_due)
				vlo_publish(queue);
			spin_unlock_irqrestore(&queue->used_lock, flags);
			if (is_due) {
				irq_work_queue(&queue->call_work);
				untold = 0;
			}
			cond_resched();
		}
	} while (!vlo_disown_used(queue));
}

/* ---- sessions ---- */

/**
 * vlo_queue_pause() - stops both halves of a queue
 * @queue: the queue
 *
 * When it returns, the device's ring is left alone until vlo_queue_resume().
 *
 * Context: Holds device->lock.
 */
void vlo_queue_pause(struct vlo_vq *queue)
{
	lockdep_assert_held(&queue->device->lock);
	spin_lock_irq(&queue->avail_lock);
	queue->avail_paused = true;
	spin_unlock_irq(&queue->avail_lock);
	spin_lock_irq(&queue->used_lock);
	queue->used_paused = true;
	spin_unlock_irq(&queue->used_lock);
	cancel_work_sync(&queue->pump_work);
	cancel_work_sync(&queue->reap_work);
	hrtimer_cancel(&queue->call_timer);	/* either half may start it until here */
	/* A thread that was to begin, and will not, has left these. */
	queue->avail_threaded = false;
	queue->used_threaded = false;
}

/**
 * vlo_queue_resume() - lets both halves of a queue run again
 * @queue: the queue
 *
 * The driver hears of requests that were completed meanwhile, and is heard.
 *
 * Context: Holds device->lock.
 */
void vlo_queue_resume(struct vlo_vq *queue)
{
	lockdep_assert_held(&queue->device->lock);
	spin_lock_irq(&queue->avail_lock);
	queue->avail_paused = false;
	spin_unlock_irq(&queue->avail_lock);
	spin_lock_irq(&queue->used_lock);
	queue->used_paused = false;
	spin_unlock_irq(&queue->used_lock);
	irq_work_queue(&queue->call_work);
	vlo_pump(queue);
}

/**
 * vlo_queue_harvest() - takes all that the back end has completed so far
 * @queue: the queue
 *
 * Context: Holds device->lock; the queue is paused.
 */
void vlo_queue_harvest(struct vlo_vq *queue)
{
	u32 used;
	u16 head;

	while (vlo_next_used(queue, &head, &used)) {
		used = vlo_finish(queue, head, used);
		spin_lock_irq(&queue->used_lock);
		vlo_deliver(queue, head, used);
		spin_unlock_irq(&queue->used_lock);
		cond_resched();
	}
	spin_lock_irq(&queue->used_lock);
	vlo_publish(queue);
	spin_unlock_irq(&queue->used_lock);
	queue->ring.is_active = false;
	vlo_report_break(queue);
}

static int vlo_by_serial(const void *a, const void *b, const void *context)
{
	const struct vlo_vq *queue = context;
	u64 first = queue->requests[*(const u16 *)a].serial;
	u64 second = queue->requests[*(const u16 *)b].serial;

	return first < second ? -1 : first > second;
}

/**
 * vlo_queue_replay() - marks the requests that were not completed as to be placed again
 * @queue: the queue
 *
 * Their order is that of the driver. The queue has been harvested before.
 *
 * Context: Holds device->lock; the queue is paused.
 *
 * Return: The number of these requests.
 */
u32 vlo_queue_replay(struct vlo_vq *queue)
{
	u32 head, count = 0;

	atomic_set(&queue->sent, 0);
	clear_bit(VLO_STARVED, &queue->bits);
	if (queue->early)
		return vlo_early_replay(queue);
	for (head = 0; head < queue->size; head++) {
		if (queue->requests[head].state == VLO_IDLE)
			continue;
		queue->requests[head].state = VLO_PREPARED;
		queue->requests[head].pages = 0;	/* they go with the pool */
		queue->replay[count++] = head;
	}
	sort_r(queue->replay, count, sizeof(*queue->replay), vlo_by_serial, NULL, queue);
	queue->replay_at = 0;
	queue->replay_count = count;
	queue->counters.replayed += count;
	return count;
}

/**
 * vlo_queue_fail() - fails the requests that were to be placed again
 * @queue: the queue
 *
 * Context: Holds device->lock; the queue is paused.
 *
 * Return: The number of these requests.
 */
u32 vlo_queue_fail(struct vlo_vq *queue)
{
	u32 count = queue->replay_count - queue->replay_at;

	while (queue->replay_at < queue->replay_count)
		vlo_fail(queue, queue->replay[queue->replay_at++]);
	return count;
}

/* ---- the driver makes a queue, and takes it away ---- */

/**
 * vlo_queue_show() - the driver has made a queue
 * @queue: the queue
 * @vq: the virtqueue, with its ring
 *
 * Context: Holds device->lock.
 *
 * Return: 0 or -ENOMEM.
 */
int vlo_queue_show(struct vlo_vq *queue, struct virtqueue *vq)
{
	const struct vring *vring = virtqueue_get_vring(vq);

	lockdep_assert_held(&queue->device->lock);
	queue->requests = kvcalloc(vring->num, sizeof(*queue->requests), GFP_KERNEL_ACCOUNT);
	queue->replay = kvcalloc(vring->num, sizeof(*queue->replay), GFP_KERNEL_ACCOUNT);
	if (!queue->requests || !queue->replay ||
	    (queue->flags & VLO_Q_EARLY && vlo_early_make(queue, vring->num))) {
		vlo_queue_forget(queue);
		return -ENOMEM;
	}
	queue->size = vring->num;
	queue->vring = *vring;
	queue->avail_next = 0;
	queue->used_next = 0;
	queue->replay_at = 0;
	queue->replay_count = 0;
	queue->bits = 0;
	queue->pool = NULL;
	queue->ring.is_active = false;
	atomic_set(&queue->sent, 0);
	WRITE_ONCE(queue->vq, vq);
	queue->is_ready = true;
	spin_lock_irq(&queue->avail_lock);
	queue->avail_paused = false;
	spin_unlock_irq(&queue->avail_lock);
	spin_lock_irq(&queue->used_lock);
	queue->used_paused = false;
	spin_unlock_irq(&queue->used_lock);
	return 0;
}

/**
 * vlo_queue_forget() - the driver takes its queue away
 * @queue: the queue
 *
 * Context: Holds device->lock.
 */
void vlo_queue_forget(struct vlo_vq *queue)
{
	vlo_queue_pause(queue);
	queue->is_ready = false;
	queue->pool = NULL;
	queue->ring.is_active = false;
	WRITE_ONCE(queue->vq, NULL);
	irq_work_sync(&queue->call_work);
	irq_work_sync(&queue->kick_work);
	vlo_early_free(queue);
	kvfree(queue->requests);
	kvfree(queue->replay);
	queue->requests = NULL;
	queue->replay = NULL;
}
