# The service. What it needs and which version it is stand in pyproject.toml, once.
{
  lib,
  pkgs,
  python3,
  bubblewrap,
  git,
  nix,
  openssh,
  util-linux,
  # Names of optional features in pyproject.toml.
  extras ? [ "notify" ],
}:
let
  base = import ../python.nix { inherit lib python3; };
  inherit (base) project python;
  build = lib.importTOML ../../../pyproject.toml;
  source = import ../source.nix { inherit lib; };
in
python.pkgs.buildPythonApplication {
  pname = project.name;
  inherit (project) version;
  pyproject = true;

  src = source (
    [
      "ci"
      "pyproject.toml"
      project.readme
    ]
    ++ project.license-files
    # What the wheel takes from beside `ci`.
    ++ builtins.attrNames build.tool.hatch.build.targets.wheel.force-include
    ++ builtins.attrNames build.tool.hatch.build.targets.wheel.shared-data
  );

  build-system = base.libraries build.build-system.requires;
  dependencies = base.libraries (
    project.dependencies ++ lib.concatMap (extra: project.optional-dependencies.${extra}) extras
  );

  # Its own tools come first. Nix comes last: a system's own fits the daemon that runs there.
  makeWrapperArgs = [
    "--prefix"
    "PATH"
    ":"
    (lib.makeBinPath [
      bubblewrap
      git
      openssh
      util-linux
    ])
    "--suffix"
    "PATH"
    ":"
    (lib.makeBinPath [ nix ])
  ];

  # The clients are a package of their own, which starts faster.
  postInstall = ''
    find "$out/bin" -mindepth 1 ! -name build-server -delete
    rm -r "$out/share/man"
  '';

  # The suite needs a real Nix, sandboxes and sockets: `make test` runs it in a checkout.
  doCheck = false;
  pythonImportsCheck = [
    "ci.app"
    "ci.cli"
  ];
  # After the wrapping: what people run does run.
  postFixup = ''
    "$out/bin/build-server" --help > /dev/null
  '';

  passthru = {
    inherit python;
    replacedLibraries = base.replaced;
    # In virtual machines: nix build .#build-server.tests.server-builds
    tests = import ../../checks/nixos { inherit pkgs; };
  };

  meta = {
    inherit (project) description;
    license = lib.licenses.mit;
    mainProgram = "build-server";
    platforms = lib.platforms.linux;
  };
}
