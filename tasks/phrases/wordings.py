"""Which wordings of a caption say which attribute: the tables that `attributes` reads.

Values are parted by ``;``. The first wording of each is the value itself, the others are other ways
to say it. A wording of several words is joined by hyphens here; in a caption these may be hyphens
or spaces.
"""

KINDS = {
    "pattern": "what is on its surface: striped, plaid, floral, printed, plain",
    "material": "what it is made of: denim, leather, wool, knitted",
    "length": "how far it reaches: long, short, knee-length, cropped, mini",
    "sleeve": "long-sleeved, short-sleeved, sleeveless, rolled-up",
    "fit": "how it sits on the body: loose, tight, baggy, skinny, wide",
    "neck": "the opening at the neck: v-neck, crew-neck, turtleneck, collared",
    "closure": "how it is shut, or that it is not: zipped, buttoned, open, laced",
    "detail": "another part or treatment: hooded, ripped, padded, high-heeled",
    "style": "what it is for: sports, casual, formal, school, running",
    "shape": "straight, curly, round",
    "size": "large, small, wide, narrow",
    "tone": "how light it is, where no colour is named: dark, light, bright",
    "state": "what passes: messy, wet, dyed, new, worn",
    "side": "left, right, front, rear",
    "count": "one, two, ..., pair, several, both, group",
    "age": "child, teenage, young, adult, middle-aged, old, elderly; of persons",
    "gender": "male, female; of persons",
    "build": "slim, stocky, tall, short; of persons",
}
"""The closed set of kinds -> what they say."""

WORDINGS = {
    "pattern": """
        striped stripe stripes stripped stripy stripey pinstripe pinstriped; plaid plaids;
        checkered checked chequered check checks; floral flowered flowery flower-print
        floral-print flower-pattern; polka-dot polka polka-dots polka-dotted; dotted spotted;
        printed print graphic; patterned pattern; plain solid pure-color pure-colour pure-colored
        pure-coloured solid-color solid-colour solid-colored solid-coloured single-color
        single-colour; camouflage camo camouflaged; leopard leopard-print; zebra zebra-print;
        animal-print animal; snakeskin snake-skin; tartan; paisley; argyle; gingham; houndstooth;
        herringbone; tie-dyed tie-dye; two-tone two-toned; color-block colour-block color-blocked
        colour-blocked; multicolored multicoloured multicolour multicolor multi-color multi-colour
        multi-colored multi-coloured colorful colourful; embroidered""",
    "material": """
        denim jean; leather patent-leather; cotton; wool woolen woollen woolly; silk; linen; suede;
        velvet; satin; nylon; polyester; canvas; rubber; plastic; metal; wood wooden; corduroy;
        tweed; flannel; mesh; chiffon; cashmere; straw; cloth; fabric; down; fur furry; fleece;
        lace; knitted knit cable-knit; glass; paper; brick; stone; tile tiled""",
    "length": """
        long full-length; short; knee-length; ankle-length ankle; calf-length; thigh-length;
        hip-length; waist-length; shoulder-length; floor-length; mid-length medium-length medium;
        three-quarter three-quarter-length; knee-high; thigh-high; cropped crop; mini; midi;
        maxi""",
    "sleeve": """
        long-sleeved long-sleeve long-sleeves full-sleeved full-sleeve full-sleeves;
        short-sleeved short-sleeve short-sleeves; half-sleeved half-sleeve half-sleeves;
        three-quarter-sleeved three-quarter-sleeve three-quarter-sleeves; sleeveless""",
    "fit": """
        loose loose-fitting loose-fit; baggy; tight tight-fitting form-fitting close-fitting
        skin-tight; skinny skinny-fit; slim slim-fit slim-fitting slimfit; fitted; oversized
        oversize over-sized; wide wide-leg wide-legged; straight straight-leg straight-legged
        straight-cut; flared bell-bottom boot-cut; tapered; cuffed""",
    "neck": """
        v-neck v-necked vneck; round-neck round-necked round-collar; crew-neck crew-necked
        crewneck; high-neck high-necked high-collar high-collared stand-collar; turtleneck
        turtle-neck; scoop-neck; boat-neck; off-shoulder off-the-shoulder; collared; collarless""",
    "closure": """
        zipped zip zip-up zipped-up zippered full-zip half-zip; unzipped; buttoned button button-up
        button-down buttoned-up button-front; unbuttoned; open; closed fastened; double-breasted;
        single-breasted; laced lace-up laced-up; slip-on""",
    "detail": """
        hooded; pleated; ripped torn distressed; padded puffy puffer; quilted; ruffled frilly
        frilled; strappy; strapless; backless; layered; tiered; fringed; fur-lined; fur-trimmed;
        reflective; transparent sheer see-through; shiny glossy; faded washed; thick; thin;
        lightweight; fluffy fuzzy; pointed pointed-toe pointed-toed; open-toed open-toe;
        high-heeled high-heel high-heels; heeled; high-top high-tops; low-top low-tops;
        high-waisted high-waist; platform; wedge; chunky; brimmed wide-brimmed broad-brimmed;
        rimmed; framed""",
    "style": """
        sports sport sporty athletic; casual; formal; business; school; work; running jogging
        jogger; hiking; walking; tennis; basketball basket-ball; football; soccer; baseball; golf;
        yoga; gym; swimming swim bathing; cycling biking; biker motorcycle; cargo; military army;
        safety; travel traveling travelling; shopping; bomber; trench; varsity; pencil; evening;
        traditional""",
    "shape": "curly curled frizzy; wavy; round rounded; square; oval",
    "size": "large big huge; small little tiny; broad; narrow",
    "tone": """
        dark dark-colored dark-coloured; light light-colored light-coloured pale; bright
        bright-colored bright-coloured brightly-colored brightly-coloured vivid neon""",
    "state": """
        messy shaggy; neat; wet; dry; dirty; clean; new; worn worn-out; old; wrinkled; empty; full;
        dyed bleached; permed; braided""",
    "side": "left left-hand; right right-hand; front; rear",
    "count": """
        one 1; two 2; three 3; four 4; five 5; six 6; seven 7; eight 8; pair pairs; couple; several;
        few; many; both; group crowd""",
}
"""Kind -> values with their wordings."""

OF_GROUP: dict[str, dict[str, str]] = {
    "person": {
        "age": """
            child little; teenage adolescent teen; young younger; adult grown-up; middle-aged
            middle-age; old older; elderly aged senior""",
        "gender": "male; female",
        "build": """
            slim slender; thin skinny lean lanky; fat overweight chubby plump obese; stocky heavyset
            heavy-set thickset burly; muscular strong athletic well-built; average medium
            medium-built; tall; short; petite; large big heavy; small""",
        "detail": "bald balding; bearded",
    },
    "hair": {
        "shape": "straight; curly curled frizzy; wavy",
        "state": "loose; tied tied-up tied-back; messy shaggy",
        "detail": "bald balding shaved; receding; thinning thin; thick",
    },
    "head": {"size": "wide; broad"},
    "carried": {"size": "wide; broad"},
    "accessory": {"size": "wide; broad"},
    "footwear": {"detail": "flat"},
    "upper": {"sleeve": "rolled-up rolled"},
}
"""What a wording means of things of this group; goes before `WORDINGS`."""

OF_HEAD = {
    "male": """man men boy boys guy guys gentleman gentlemen male males man's mans father dude lad
        policeman businessman waiter""",
    "female": """woman women girl girls lady ladies female females woman's womans mother gal
        policewoman businesswoman""",
    "child": "child children kid kids toddler toddlers baby babies",
    "teenage": "teenager teenagers teen teens",
    "adult": "adult adults",
    "elderly": "elder elders elderly",
}
"""What the noun for a person says of gender or age."""
