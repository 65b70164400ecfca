"""Shared by the exporters: traces that run on other devices than the one they were made on."""

import torch


def devices_stay_variable(traced):
    """The devices that a trace has as constants become the first input's: one file serves the CPU and GPUs."""
    graph = traced.graph
    torch._C._jit_pass_inline(graph)
    constants = [n for n in graph.findAllNodes("prim::Constant") if n.output().type().kind() == "DeviceObjType"]
    here = graph.create("prim::device", [list(graph.inputs())[1]], 1)
    here.output().setType(torch._C.DeviceObjType.get())
    graph.prependNode(here)
    for n in constants:
        n.output().replaceAllUsesWith(here.output())
    torch._C._jit_pass_dce(graph)


def check_same(traced, module, inputs, what):
    """Ends the program when the trace does something else for these inputs than the module does."""
    with torch.no_grad():
        pairs = zip(*(x if isinstance(x, tuple) else (x,) for x in (traced(*inputs), module(*inputs))))
    for a, b in pairs:
        if not torch.allclose(a, b, rtol=1e-3, atol=1e-3 * b.abs().max().item()):
            raise SystemExit(f"the traced network is off by {(a - b).abs().max():g} for {what}: this transformers traces otherwise")
