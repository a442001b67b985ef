//go:build swift_model

package swift

// The export of model families.

//go:wasmexport swift:model/adapter@0.1.0#claims
func exportModelClaims(config, length uint32) uint32 {
	defer guard()
	begin()
	family, name := claimed(span{config, length}.text())
	arguments = nil
	if family == nil {
		return replyOptional(nil)
	}
	return replyOptional(&name)
}

//go:wasmexport swift:model/adapter@0.1.0#build
func exportModelBuild(config, configLength, task, taskLength, host uint32) uint32 {
	defer guard()
	begin()
	text, name := span{config, configLength}.text(), span{task, taskLength}.text()
	arguments = nil
	err := buildGraph(text, name, hostBuilder(host))
	importBuilderDrop(host)
	return reply(span{}, err)
}
