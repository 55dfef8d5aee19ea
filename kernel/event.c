// SPDX-License-Identifier: GPL-2.0
/*
 * Kick and call: eventfds between a queue and its back end.
 *
 * A kick is signalled in the driver's notification. A call is consumed here, as KVM's irqfd does:
 * an entry in the eventfd's wait queue starts an irq_work, in which drivers find the interrupt
 * context that they expect. No process is in between.
 */
#include <linux/bottom_half.h>
#include <linux/file.h>
#include <linux/slab.h>
#include "vlo.h"

/**
 * vlo_kick() - wakes the back end
 * @queue: the queue
 * @flags: the state of interrupts before avail_lock was taken
 *
 * Context: Holds avail_lock.
 */
void vlo_kick(struct vlo_vq *queue, unsigned long flags)
{
	lockdep_assert_held(&queue->avail_lock);
	if (!queue->kick)
		return;
	if (likely(vlo_can_signal(flags)))
		vlo_eventfd_signal(queue->kick);
	else
		irq_work_queue(&queue->kick_work);
}

/* A kick that had to wait. */
static void vlo_kick_work(struct irq_work *work)
{
	struct vlo_vq *queue = container_of(work, struct vlo_vq, kick_work);
	unsigned long flags;

	spin_lock_irqsave(&queue->avail_lock, flags);
	if (queue->kick)
		vlo_eventfd_signal(queue->kick);
	spin_unlock_irqrestore(&queue->avail_lock, flags);
}

/* Tells the driver of requests that are done, unless it has said that it looks by itself. */
static void vlo_interrupt(struct vlo_vq *queue)
{
	struct virtqueue *vq = READ_ONCE(queue->vq);

	/* A full barrier: the used index is visible before we look at the driver's wish. */
	if (!test_and_clear_bit(VLO_INTERRUPT_DUE, &queue->bits) || !vq)
		return;
	if (vlo_get16(READ_ONCE(queue->vring.avail->flags)) & VRING_AVAIL_F_NO_INTERRUPT)
		return;
	queue->counters.interrupts++;
	/*
	 * On real-time kernels this is a thread. Drivers of networks expect what a handler of
	 * interrupts has there too: softirqs that they raise run afterwards.
	 */
	if (IS_ENABLED(CONFIG_PREEMPT_RT))
		local_bh_disable();
	vring_interrupt(0, vq);
	if (IS_ENABLED(CONFIG_PREEMPT_RT))
		local_bh_enable();
}

static void vlo_call_work(struct irq_work *work)
{
	struct vlo_vq *queue = container_of(work, struct vlo_vq, call_work);

	vlo_reap(queue);
	vlo_interrupt(queue);
}

/* The back end was told to leave used entries without a call for a while: it is over. */
static enum hrtimer_restart vlo_call_timer(struct hrtimer *timer)
{
	struct vlo_vq *queue = container_of(timer, struct vlo_vq, call_timer);

	irq_work_queue(&queue->call_work);
	return HRTIMER_NORESTART;
}

/* The eventfd was signalled. Its lock is held, interrupts are off. */
static int vlo_call_wake(wait_queue_entry_t *wait, unsigned int mode, int sync, void *key)
{
	struct vlo_call *call = container_of(wait, struct vlo_call, wait);
	u64 count;

	if (!(key_to_poll(key) & EPOLLIN))
		return 0;
	eventfd_ctx_do_read(call->eventfd, &count);
	/*
	 * Not from here: the locks of drivers would nest in that of the eventfd, and those of
	 * eventfds in theirs where they notify.
	 */
	irq_work_queue(&call->queue->call_work);
	return 1;
}

static void vlo_call_table(struct file *file, wait_queue_head_t *head, poll_table *table)
{
	struct vlo_call *call = container_of(table, struct vlo_call, table);

	add_wait_queue_priority(head, &call->wait);
}

/**
 * vlo_call_drop() - stops consuming the call eventfd, if there is one
 * @queue: the queue
 *
 * Context: Holds device->lock.
 */
void vlo_call_drop(struct vlo_vq *queue)
{
	struct vlo_call *call = queue->call;
	u64 count;

	lockdep_assert_held(&queue->device->lock);
	if (!call)
		return;
	queue->call = NULL;
	eventfd_ctx_remove_wait_queue(call->eventfd, &call->wait, &count);
	/* A call that was signalled and not yet consumed. */
	if (count)
		irq_work_queue(&queue->call_work);
	irq_work_sync(&queue->call_work);
	eventfd_ctx_put(call->eventfd);
	kfree(call);
}

/**
 * vlo_call_set() - consumes an eventfd from now on
 * @queue: the queue
 * @file: the file of the eventfd
 *
 * Context: Process context; takes device->lock.
 *
 * Return: 0; -EINVAL: @file is not an eventfd; -ENODEV: the device is gone; -ENOMEM.
 */
int vlo_call_set(struct vlo_vq *queue, struct file *file)
{
	struct vlo_device *device = queue->device;
	struct vlo_call *call = kzalloc(sizeof(*call), GFP_KERNEL_ACCOUNT);
	int error;

	if (!call)
		return -ENOMEM;
	call->eventfd = eventfd_ctx_fileget(file);
	if (IS_ERR(call->eventfd)) {
		error = PTR_ERR(call->eventfd);
		kfree(call);
		return error;
	}
	call->queue = queue;
	init_waitqueue_func_entry(&call->wait, vlo_call_wake);
	init_poll_funcptr(&call->table, vlo_call_table);
	mutex_lock(&device->lock);
	if (READ_ONCE(device->gone)) {
		mutex_unlock(&device->lock);
		eventfd_ctx_put(call->eventfd);
		kfree(call);
		return -ENODEV;
	}
	vlo_call_drop(queue);
	queue->call = call;
	/* A signal from before goes the same way as those that follow. */
	if (vfs_poll(file, &call->table) & EPOLLIN)
		irq_work_queue(&queue->call_work);
	mutex_unlock(&device->lock);
	return 0;
}

/**
 * vlo_kick_set() - signals another eventfd from now on, or none
 * @queue: the queue
 * @kick: the eventfd, whose reference this takes over; or NULL
 *
 * Context: Holds device->lock.
 */
void vlo_kick_set(struct vlo_vq *queue, struct eventfd_ctx *kick)
{
	unsigned long flags;

	spin_lock_irqsave(&queue->avail_lock, flags);
	swap(queue->kick, kick);
	spin_unlock_irqrestore(&queue->avail_lock, flags);
	if (kick)
		eventfd_ctx_put(kick);
}

/**
 * vlo_event_init() - prepares kick and call of a new queue
 * @queue: the queue
 *
 * Context: Process context.
 */
void vlo_event_init(struct vlo_vq *queue)
{
	init_irq_work(&queue->call_work, vlo_call_work);
	init_irq_work(&queue->kick_work, vlo_kick_work);
	vlo_hrtimer_setup(&queue->call_timer, vlo_call_timer);
}
