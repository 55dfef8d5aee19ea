// SPDX-License-Identifier: GPL-2.0
/*
 * The host's RAM as a file, for zero-copy (VLO_F_DIRECT). To take it back from all who map it is to
 * set a flag, under the lock under which pages are mapped, and to unmap it everywhere. From then on
 * its mappings show one page of zeros, so the process behind them does not crash.
 *
 * The file holds the module: it cannot be removed while a process has the file.
 */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/ioport.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/pseudo_fs.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include "vlo.h"

#define VLO_FS_MAGIC	0x564c4f00
#define VLO_FAULT_AROUND	16	/* pages that are mapped at a time */

struct vlo_region {
	struct rw_semaphore lock;	/* revoked, and mapping a page by it */
	bool revoked;
	struct page *dummy;		/* shown instead, once revoked */
	u64 size;
};

/* Each file needs an inode of its own: it has a size, and its mappings can be found by it. */
static struct vfsmount *vlo_mount;

static int vlo_fs_init(struct fs_context *fc)
{
	return init_pseudo(fc, VLO_FS_MAGIC) ? 0 : -ENOMEM;
}

/* Without an owner: its own mount would hold the module for ever. The files hold it. */
static struct file_system_type vlo_fs = {
	.name = "virtio-loopback",
	.init_fs_context = vlo_fs_init,
	.kill_sb = kill_anon_super,
};

static vm_fault_t vlo_region_fault(struct vm_fault *vmf)
{
	struct vm_area_struct *vma = vmf->vma;
	struct vlo_region *region = vma->vm_private_data;
	unsigned long address = vmf->address & PAGE_MASK;
	unsigned long count, pfn = vmf->pgoff;
	vm_fault_t result = VM_FAULT_SIGBUS;
	unsigned int noio;

	/* Inside the lock up to the page table: a revocation finds what was mapped before it. */
	down_read(&region->lock);
	/* A revocation must not wait for I/O, which may be that of its dead device. */
	noio = memalloc_noio_save();
	if ((u64)pfn << PAGE_SHIFT >= region->size)
		goto out;
	if (region->revoked) {
		result = vmf_insert_pfn(vma, address, page_to_pfn(region->dummy));
		goto out;
	}
	/* Not holes between banks of RAM, nor what firmware or devices have. */
	if (!page_is_ram(pfn))
		goto out;
	result = vmf_insert_pfn(vma, address, pfn);
	for (count = 1; count < VLO_FAULT_AROUND && result == VM_FAULT_NOPAGE; count++) {
		address += PAGE_SIZE;
		pfn++;
		if (address >= vma->vm_end || (u64)pfn << PAGE_SHIFT >= region->size ||
		    !page_is_ram(pfn) || vmf_insert_pfn(vma, address, pfn) != VM_FAULT_NOPAGE)
			break;
	}
out:
	memalloc_noio_restore(noio);
	up_read(&region->lock);
	return result;
}

static const struct vm_operations_struct vlo_region_vm_ops = {
	.fault = vlo_region_fault,
};

static int vlo_region_mmap(struct file *file, struct vm_area_struct *vma)
{
	if (!(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	vm_flags_set(vma, VM_DONTEXPAND | VM_DONTDUMP | VM_PFNMAP | VM_IO);
	vma->vm_private_data = file->private_data;
	vma->vm_ops = &vlo_region_vm_ops;
	return 0;
}

/* Back ends ask for the size of a file before they map it. */
static loff_t vlo_region_llseek(struct file *file, loff_t offset, int whence)
{
	struct vlo_region *region = file->private_data;

	return fixed_size_llseek(file, offset, whence, region->size);
}

static int vlo_region_release(struct inode *inode, struct file *file)
{
	struct vlo_region *region = file->private_data;

	__free_page(region->dummy);
	kfree(region);
	return 0;
}

static const struct file_operations vlo_region_fops = {
	.owner = THIS_MODULE,
	.mmap = vlo_region_mmap,
	.llseek = vlo_region_llseek,
	.release = vlo_region_release,
};

static struct file *vlo_region_file(struct vlo_region *region)
{
	struct inode *inode = alloc_anon_inode(vlo_mount->mnt_sb);
	struct file *file;

	if (IS_ERR(inode))
		return ERR_CAST(inode);
	__module_get(THIS_MODULE);
	file = alloc_file_pseudo(inode, vlo_mount, "[virtio-loopback]", O_RDWR, &vlo_region_fops);
	if (IS_ERR(file)) {
		module_put(THIS_MODULE);
		iput(inode);
		return file;
	}
	file->f_mapping = inode->i_mapping;
	file->f_mode |= FMODE_LSEEK;
	file->private_data = region;
	i_size_write(inode, region->size);
	return file;
}

static int vlo_ram_end(struct resource *resource, void *end)
{
	*(u64 *)end = max_t(u64, *(u64 *)end, resource->end + 1);
	return 0;
}

/**
 * vlo_ram_create() - makes a file of all RAM, at its physical addresses
 *
 * Context: Process context.
 *
 * Return: The file, or an error pointer.
 */
struct file *vlo_ram_create(void)
{
	struct vlo_region *region;
	struct file *file;
	u64 end = 0;

	walk_iomem_res_desc(IORES_DESC_NONE, IORESOURCE_SYSTEM_RAM | IORESOURCE_BUSY, 0, -1, &end,
			    vlo_ram_end);
	end = PAGE_ALIGN(end);
	if (!end || end > VLO_POOL_ADDRESS)
		return ERR_PTR(-ERANGE);
	region = kzalloc(sizeof(*region), GFP_KERNEL);
	if (!region)
		return ERR_PTR(-ENOMEM);
	init_rwsem(&region->lock);
	region->size = end;
	region->dummy = alloc_page(GFP_KERNEL | __GFP_ZERO);
	file = region->dummy ? vlo_region_file(region) : ERR_PTR(-ENOMEM);
	if (IS_ERR(file)) {
		if (region->dummy)
			__free_page(region->dummy);
		kfree(region);
	}
	return file;
}

/**
 * vlo_ram_size() - the size of such a file
 * @file: a file of vlo_ram_create()
 *
 * Return: Bytes.
 */
u64 vlo_ram_size(struct file *file)
{
	struct vlo_region *region = file->private_data;

	return region->size;
}

/**
 * vlo_ram_revoke() - takes the RAM away from all processes that have the file
 * @file: a file of vlo_ram_create()
 *
 * Their mappings show one page of zeros from then on.
 *
 * Context: Process context.
 */
void vlo_ram_revoke(struct file *file)
{
	struct vlo_region *region = file->private_data;

	down_write(&region->lock);
	region->revoked = true;
	up_write(&region->lock);
	unmap_mapping_range(file->f_mapping, 0, 0, 1);
}

/**
 * vlo_ram_init() - sets up files of RAM, when the module is loaded
 *
 * Context: Process context.
 *
 * Return: 0, or a negative error number.
 */
int vlo_ram_init(void)
{
	vlo_mount = kern_mount(&vlo_fs);
	return PTR_ERR_OR_ZERO(vlo_mount);
}

/**
 * vlo_ram_exit() - takes files of RAM down, when the module is removed
 *
 * Context: Process context.
 */
void vlo_ram_exit(void)
{
	kern_unmount(vlo_mount);
}
