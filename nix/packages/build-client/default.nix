# The clients: one program of Python's standard library under all its names. Nothing of the
# server is in it, so it is small and starts at once.
{
  lib,
  stdenvNoCC,
  python3,
}:
let
  source = import ../source.nix { inherit lib; };
  inherit ((lib.importTOML ../../../pyproject.toml).project) version;
  names = [
    "build-trigger"
    "bt"
    "build-status"
    "bs"
    "build-logs"
    "bl"
  ];
in
stdenvNoCC.mkDerivation {
  pname = "build-client";
  inherit version;

  src = source [
    "ci/__init__.py"
    "ci/client"
  ];

  dontConfigure = true;
  dontBuild = true;
  installPhase = ''
    runHook preInstall
    library=$out/lib/build-client
    mkdir -p "$library" "$out/bin"
    cp -r ci "$library/"
    # By content: times in the store say nothing about what is newer.
    ${python3.interpreter} -m compileall -q --invalidation-mode unchecked-hash "$library"
    # -I and -S: neither the user's variables nor other installed packages have a say.
    cat > "$out/bin/build-client" <<PROGRAM
    #!${python3.interpreter} -IS
    """bt, bs, bl and build-client: the name it is called by is the verb."""

    import sys

    sys.path.insert(0, "$library")
    from ci.client.main import main

    sys.exit(main())
    PROGRAM
    chmod +x "$out/bin/build-client"
    for name in ${toString names}; do
      ln -s build-client "$out/bin/$name"
    done
    runHook postInstall
  '';

  doInstallCheck = true;
  installCheckPhase = ''
    runHook preInstallCheck
    for name in build-client ${toString names}; do
      [ "$("$out/bin/$name" --version)" = "build-client ${version}" ]
    done
    runHook postInstallCheck
  '';

  meta = {
    description = "Command line of build-server: bt, bs, bl";
    license = lib.licenses.mit;
    mainProgram = "build-client";
    platforms = lib.platforms.unix;
  };
}
