# One verb of the clients under its long and its short name.
{
  runCommand,
  build-client,
  verb,
  short,
}:
let
  name = "build-${verb}";
in
runCommand name
  {
    inherit (build-client) version;
    meta = build-client.meta // {
      description = "${build-client.meta.description} (${verb} alone)";
      mainProgram = name;
    };
  }
  ''
    mkdir -p "$out/bin"
    for name in ${name} ${short}; do
      ln -s "${build-client}/bin/$name" "$out/bin/$name"
    done
  ''
