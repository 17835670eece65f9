//! Switches for x86-64 with the System V calling convention.

use std::arch::{asm, naked_asm};
use std::io;

use corosensei::stack::Stack;

use super::stance::Stance;
use super::{Body, ColouredStack};

/// Where a stack that does not run stands: its stack pointer, at which lies the address to continue at.
#[repr(transparent)]
pub(crate) struct Place(usize);

impl Place {
    /// The OS thread's own stack.
    pub(crate) fn host() -> Self {
        Self(0)
    }

    /// The stack pointer and the address at which the stack would go on.
    ///
    /// # Safety
    /// The stack was left by [`switch`] and has not run since.
    #[cfg_attr(not(all(target_os = "linux", target_env = "gnu")), allow(dead_code, reason = "no handler asks there"))]
    pub(crate) unsafe fn entry(&self) -> (usize, usize) {
        // SAFETY: by this function's contract, the address lies where the place says.
        (self.0 + size_of::<usize>(), unsafe { *(self.0 as *const usize) })
    }
}

/// A stack that runs a body.
pub(crate) struct Fiber {
    place: Place,
    /// Kept for the frames on it. Nothing has to be unwound when it goes: see [`Body`].
    stack: ColouredStack,
}

impl Fiber {
    /// A fiber that starts `body` at the first switch to it. `index` picks the stack's place in a page.
    pub(crate) fn new(index: usize, body: Body) -> io::Result<Self> {
        let stack = ColouredStack::new(index)?;
        let frame = [start as *const () as usize, body as usize, 0, 0];
        let pointer = stack.base().get() - size_of_val(&frame);
        // SAFETY: the stack has room for the frame at its base, which is a multiple of 16, and nothing uses it yet.
        unsafe { (pointer as *mut [usize; 4]).write(frame) };
        Ok(Self { place: Place(pointer), stack })
    }

    /// Where the fiber stands.
    pub(crate) fn place(&mut self) -> *mut Place {
        &raw mut self.place
    }

    /// The return addresses on its stack, innermost first.
    ///
    /// # Safety
    /// The fiber does not run.
    pub(crate) unsafe fn trace(&mut self) -> Vec<usize> {
        let pointer = self.place.0 as *const usize;
        // SAFETY: by this function's contract `switch` left three words there, or `new` a frame of four. They are taken off as the switch
        // does; the unwinder gets no registers that the switch does not keep, for which its callers have places of their own.
        let (rip, rbx, rbp) = unsafe { (*pointer, *pointer.add(1), *pointer.add(2)) };
        if rip == start as *const () as usize {
            return Vec::new();
        }
        let stance = Stance { rsp: pointer as usize + 3 * size_of::<usize>(), rip, rbx, rbp, ..Stance::default() };
        stance.trace()
    }

    /// First address of its stack of [`super::STACK_BYTES`] bytes.
    pub(crate) fn stack(&self) -> usize {
        self.stack.first()
    }
}

/// The first frame of a fiber: takes the body's address off the stack, which is a multiple of 16 then, and calls it. A zero stands where
/// a debugger looks for the caller, and an unwinder finds no rules here and stops.
#[unsafe(naked)]
unsafe extern "C" fn start() -> ! {
    naked_asm!("pop rax", "xor ebp, ebp", "call rax", "ud2")
}

/// Leaves the running stack, whose place is kept in `from`, for the one that stands at `to`. Returns when somebody switches back.
///
/// # Safety
/// `to` holds the place of a stack of this OS thread that is not running, and both stacks live on.
#[inline(always)]
pub(crate) unsafe fn switch(from: *mut Place, to: *mut Place) {
    // SAFETY: rbx and rbp, which cannot be named as clobbered, are kept on the stack, and all other registers are clobbered; the stack
    // pointer is the same before and after. The stack at `to` continues at the label below or at `start`.
    unsafe {
        asm!(
            "push rbp",
            "push rbx",
            "lea rax, [rip + 2f]",
            "push rax",
            "mov [rdi], rsp",
            "mov rsp, [rsi]",
            "pop rax",
            "jmp rax",
            "2:",
            "pop rbx",
            "pop rbp",
            inlateout("rdi") from => _,
            inlateout("rsi") to => _,
            lateout("r12") _,
            lateout("r13") _,
            lateout("r14") _,
            lateout("r15") _,
            clobber_abi("sysv64"),
        );
    }
}
