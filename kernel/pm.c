// SPDX-License-Identifier: GPL-2.0
/*
 * Suspend of the machine.
 *
 * The kernel freezes all processes, in no particular order. A client whose back end is frozen
 * first waits for its request, and cannot be frozen: suspend fails after 20 s. So back ends and
 * adapters are exempt from the freezer until all processes run again. Each client gets its
 * answer, and stops.
 *
 *   PM_SUSPEND_PREPARE   back ends and adapters become exempt
 *   freezer              clients stop, then kernel threads, among them those of file systems
 *   devices, processors  no request is on its way; one that a kernel thread places now is served,
 *                        or waits in its ring
 *   asleep, and back
 *   thaw                 clients go on
 *   PM_POST_SUSPEND      back ends and adapters can be frozen again
 *
 * Devices keep their rings and sessions: all of it lies in memory that stays. The drivers' own
 * freeze is not called. It is for devices that lose their state: it would reset them, and with
 * that lose the data in a console's ports and the connections of a vsock. virtiofs refuses it.
 * virtio_blk waits in it for requests that a back end may not be able to serve, because the disk
 * below it has been suspended before: the kernel does not know which hardware a back end needs.
 *
 * A back end that uses a suspended device waits in that device's driver, as a kernel thread does.
 * One that polls keeps its processor out of suspend to idle. To freeze back ends before devices
 * are suspended would be worse: a driver that talks to a loopback device in its suspend or resume
 * (an i2c client, a clock) would wait for ever, and with it the machine.
 *
 * Kernel threads are frozen all at once. One that waits for a flush of a loopback disk, whose
 * image is on a file system that has just stopped, makes the suspend fail. The module cannot know
 * which threads a back end needs. The kernel writes all file systems back before, so little is
 * left to flush.
 *
 * Every process that has the memory of a session is exempt, and nothing else is: the adapter
 * decides who gets it. What they can do with that is to keep running while the machine suspends.
 * A back end that comes later than PM_SUSPEND_PREPARE is frozen like others; if clients wait for
 * it, the suspend fails. exec() ends the exemption.
 *
 * Hibernation is refused. A back end that is exempt would write to its files while the kernel
 * copies the memory, and a file system that is read from the image would not fit what lies on the
 * disk.
 */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/platform_device.h>
#include <linux/rbtree.h>
#include <linux/rcupdate.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/stop_machine.h>
#include <linux/suspend.h>
#include <linux/xarray.h>
#include "vlo.h"

#define VLO_MARK_ATTEMPTS	10
#define VLO_USERS_MAX		64

/*
 * The address spaces of back ends and adapters, by their own address. Used between
 * PM_SUSPEND_PREPARE and PM_POST_SUSPEND, of which the kernel has one pair at a time.
 */
static DEFINE_XARRAY(vlo_spaces);

struct vlo_mark {
	bool is_exempt;			/* what tasks are to be */
	unsigned int changed;
};

/* Returns how many it has added: 0 for one that is there already. */
static int vlo_add_space(struct mm_struct *mm)
{
	/* The caller may hold locks that reclaim takes. */
	int error = xa_insert(&vlo_spaces, (unsigned long)mm, mm, GFP_NOWAIT);

	if (error)
		return error == -EBUSY ? 0 : error;
	mmgrab(mm);
	return 1;
}

static void vlo_drop_spaces(void)
{
	struct mm_struct *mm;
	unsigned long index;

	xa_for_each(&vlo_spaces, index, mm)
		mmdrop(mm);
	xa_destroy(&vlo_spaces);
}

static int vlo_add_process(struct pid *process)
{
	struct task_struct *task = get_pid_task(process, PIDTYPE_TGID);
	int added = 0;

	if (!task)
		return 0;
	task_lock(task);
	if (task->mm)
		added = vlo_add_space(task->mm);
	task_unlock(task);
	put_task_struct(task);
	return added;
}

/*
 * The processes that map a file. A mapping that is in the tree holds its address space. Any
 * process that was given the file can map it in as many processes as it likes, so there is a
 * limit.
 */
static int vlo_add_users(struct vlo_device *device, struct file *file)
{
	struct address_space *mapping = file->f_mapping;
	int added = 0, count = 0;
	struct rb_node *node;

	i_mmap_lock_read(mapping);
	for (node = rb_first_cached(&mapping->i_mmap); node && count < VLO_USERS_MAX;
	     node = rb_next(node)) {
		added = vlo_add_space(rb_entry(node, struct vm_area_struct, shared.rb)->vm_mm);
		if (added < 0)
			break;
		count += added;
	}
	i_mmap_unlock_read(mapping);
	if (node && added >= 0)
		dev_warn(&device->parent->dev,
			 "%s: more than %u processes have its memory; others can be frozen\n",
			 device->name, VLO_USERS_MAX);
	return added;
}

/* The adapter, and who has the memory of the session: the back end, and helpers that it has. */
static int vlo_add_device(struct vlo_device *device)
{
	struct file *file;
	int added;

	lockdep_assert_held(&vlo_list_lock);
	added = device->owner ? vlo_add_process(device->owner->process) : 0;
	if (added < 0)
		return added;
	mutex_lock(&device->lock);
	file = device->pool ? get_file(device->pool->file) : NULL;
	mutex_unlock(&device->lock);
	if (!file)
		return 0;
	added = vlo_add_users(device, file);
	fput(file);
	return added;
}

static int vlo_add_devices(void)
{
	struct vlo_device *device;
	int added = 0;

	mutex_lock(&vlo_list_lock);
	list_for_each_entry(device, &vlo_list, list) {
		added = vlo_add_device(device);
		if (added < 0)
			break;
	}
	mutex_unlock(&vlo_list_lock);
	return min(added, 0);
}

/*
 * Afterwards all processes lose the flag, not only those that were exempt: a child that was
 * forked meanwhile has its parent's flag, and its parent may be gone. Other processes have it
 * only while they wait to write to /sys/power. A task without an address space keeps it: a dead
 * one that is not reaped yet could never be frozen, and a program that the kernel starts loses it
 * by itself.
 */
static void vlo_mark_task(struct vlo_mark *mark, struct task_struct *task)
{
	struct mm_struct *mm = READ_ONCE(task->mm);

	if (!mm || task->flags & PF_KTHREAD || !(task->flags & PF_NOFREEZE) == !mark->is_exempt)
		return;
	if (mark->is_exempt && !xa_load(&vlo_spaces, (unsigned long)mm))
		return;
	mark->changed++;
	if (mark->is_exempt)
		task->flags |= PF_NOFREEZE;
	else
		task->flags &= ~PF_NOFREEZE;
}

static int vlo_mark_tasks(void *data)
{
	struct task_struct *process, *task;

	rcu_read_lock();
	for_each_process_thread(process, task)
		vlo_mark_task(data, task);
	rcu_read_unlock();
	return 0;
}

/*
 * A task's flags are the task's own: it changes them without a lock. So they are changed while
 * all processors stand still. A task that was preempted between reading and writing its flags
 * undoes the change when it goes on, and a thread that is being made may have a copy of older
 * flags. Both are over when each task has given its processor away once; so the change is
 * repeated until there is nothing left to change.
 */
static void vlo_mark(bool is_exempt)
{
	struct vlo_mark mark = { .is_exempt = is_exempt };
	int attempt;

	if (xa_empty(&vlo_spaces))
		return;
	for (attempt = 0; attempt < VLO_MARK_ATTEMPTS; attempt++) {
		mark.changed = 0;
		stop_machine(vlo_mark_tasks, &mark, NULL);
		pr_debug("%u tasks changed\n", mark.changed);
		if (!mark.changed)
			break;
		synchronize_rcu_tasks();
	}
}

static int vlo_suspend(void)
{
	int error = vlo_add_devices();

	if (error)
		vlo_drop_spaces();
	else
		vlo_mark(true);
	return error;
}

static void vlo_resume(void)
{
	vlo_mark(false);
	vlo_drop_spaces();
}

static int vlo_hibernate(void)
{
	struct vlo_device *device;
	int error = 0;

	mutex_lock(&vlo_list_lock);
	device = list_first_entry_or_null(&vlo_list, struct vlo_device, list);
	if (device) {
		dev_warn(&device->parent->dev,
			 "%s: no hibernation while there is a loopback device; remove all of them first\n",
			 device->name);
		error = -EBUSY;
	}
	mutex_unlock(&vlo_list_lock);
	return error;
}

static int vlo_pm_event(struct notifier_block *block, unsigned long event, void *unused)
{
	switch (event) {
	case PM_HIBERNATION_PREPARE:
		return notifier_from_errno(vlo_hibernate());
	case PM_SUSPEND_PREPARE:
		return notifier_from_errno(vlo_suspend());
	case PM_POST_SUSPEND:
		vlo_resume();
		return NOTIFY_OK;
	}
	return NOTIFY_DONE;
}

static struct notifier_block vlo_pm_block = {
	.notifier_call = vlo_pm_event,
};

/**
 * vlo_pm_init() - sets up suspend, when the module is loaded
 *
 * Context: Process context.
 *
 * Return: 0, or a negative error number.
 */
int vlo_pm_init(void)
{
	return register_pm_notifier(&vlo_pm_block);
}

/**
 * vlo_pm_exit() - takes suspend down, when the module is removed
 *
 * Context: Process context.
 */
void vlo_pm_exit(void)
{
	unregister_pm_notifier(&vlo_pm_block);
	/* A suspend may have begun. */
	vlo_resume();
}
